package flowexport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// TestBlockedStdout: a reader that reads nothing holds up no flow and not the end, and what it does not get is counted and
// marked.
func TestBlockedStdout(t *testing.T) {
	w := newWorld(t)
	const n = maxQueue + maxBatch + 1000
	r, pipe := io.Pipe() // its writer waits until there is a reader
	out := &noticing{WriteCloser: pipe, text: fmt.Appendf(nil, "shop/%d", n)}
	x := newStream(w.cfg, out)
	stop := w.run(x)
	w.add(0, n)
	w.until("a loss", func() bool { return w.lost(x) > 0 && w.row(x).Error != "" })
	if seen := w.cfg.Flows.Count(); seen != n {
		t.Errorf("%d flows were kept", seen)
	}
	begun := make(chan []entry)
	go func() { begun <- read(t, r) }()
	// Once the queue has room again, the next flow says what is missing before it.
	w.until("room", func() bool { return len(x.queue) == 0 })
	w.add(n, 1)
	w.until("the last flow", out.noticed.Load)
	w.until("the end of the error", func() bool { return w.row(x).Error == "" })
	stop()
	_ = out.Close()
	all := <-begun
	var missing uint64
	for _, e := range all {
		missing += e.Lost
	}
	if got := uint64(len(all)) + missing; got != n+1 || missing == 0 || missing != w.lost(x) {
		t.Errorf("%d flows came and %d are said to be missing, of %d; %d are counted", len(all), missing, n+1, w.lost(x))
	}
}

// noticing is a writer that notices a text which is written in one piece.
type noticing struct {
	io.WriteCloser
	text    []byte
	noticed atomic.Bool
}

func (w *noticing) Write(b []byte) (int, error) {
	n, err := w.WriteCloser.Write(b)
	if err == nil && bytes.Contains(b, w.text) {
		w.noticed.Store(true)
	}
	return n, err
}

// TestEndWithBlockedStdout: the end does not wait for a write that does not return.
func TestEndWithBlockedStdout(t *testing.T) {
	w := newWorld(t)
	r, out := io.Pipe()
	x := newStream(w.cfg, out)
	stop := w.run(x)
	w.add(0, 1)
	w.until("the write", func() bool { return len(x.queue) == 0 })
	stop() // fails the test if Run does not return
	_ = r.CloseWithError(errors.New("nobody reads"))
}

// TestLastFlowsAreWritten: what is in the queue at the end is still written.
func TestLastFlowsAreWritten(t *testing.T) {
	w := newWorld(t)
	r, out := io.Pipe()
	x := newStream(w.cfg, out)
	begun := make(chan []entry)
	go func() { begun <- read(t, r) }()
	for i := range 100 {
		f := numbered(i)
		x.queue <- item{0, &f}
	}
	stop := w.run(x)
	stop()
	if all := <-begun; len(all) != 100 {
		t.Errorf("%d flows of 100 came", len(all))
	}
}

// short writes a part and fails, once.
type short struct {
	bytes.Buffer
	failed bool
}

func (s *short) Write(b []byte) (int, error) {
	if s.failed {
		return s.Buffer.Write(b)
	}
	s.failed = true
	n, _ := s.Buffer.Write(b[:len(b)-10])
	return n, errors.New("it is broken")
}

func (s *short) Close() error { return nil }

// TestBrokenLine: a line that was written in part is ended and sent again, those before it are not.
func TestBrokenLine(t *testing.T) {
	out := &short{}
	s := &stream{node: "n1", to: out}
	a, b := numbered(1), numbered(2)
	items := []item{{0, &a}, {0, &b}}
	taken, _, err := s.send(t.Context(), items)
	if taken != 1 || err == nil {
		t.Fatal(taken, err)
	}
	if taken, _, err = s.send(t.Context(), items[taken:]); taken != 1 || err != nil {
		t.Fatal(taken, err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], `{"node":"n1","flow":{`) || !strings.HasPrefix(lines[2], `{"node":"n1","flow":{`) {
		t.Errorf("%q", lines)
	}
}

// TestStdoutWithoutReader: the process outlives the reader of its standard output.
func TestStdoutWithoutReader(t *testing.T) {
	const child = "WEFT_TEST_STDOUT"
	if os.Getenv(child) != "" {
		w := newWorld(t)
		x, err := NewStdout(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.run(x)
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has closed the other end of stdout
		w.add(0, 1)
		w.until("an error", func() bool { return strings.Contains(w.row(x).Error, "broken pipe") })
		_, _ = os.Stderr.WriteString("it lives\n")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestStdoutWithoutReader$")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.WaitDelay = time.Minute
	var said bytes.Buffer
	cmd.Stderr = &said
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = stdout.Close()
	_ = stdin.Close()
	_ = cmd.Wait() // the test framework of the child cannot print to stdout
	if !strings.Contains(said.String(), "it lives") {
		t.Errorf("the child said %q", &said)
	}
}

// TestNamesOfRows: metrics and dashboards ask by these names.
func TestNamesOfRows(t *testing.T) {
	if got := model.LostExport(model.ExportOTLP); got != "flow-export-otlp" {
		t.Error(got)
	}
}
