package flowexport

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// line appends a flow as a line of JSON, as weft observe -o json has it, with its node. If flows are missing before it, the
// field lost says how many.
func line(to *bytes.Buffer, node string, i item) error {
	return json.NewEncoder(to).Encode(struct {
		Node string `json:"node"`
		observe.Event
	}{node, observe.Event{Flow: i.flow, Lost: i.lost}})
}

// stream writes lines to what cannot be looked at or rotated.
type stream struct {
	node string
	to   io.WriteCloser
	// broken is true if the last line that was written has no end.
	broken bool
}

// NewStdout makes an Exporter to standard output. It uses a descriptor of its own: a write to descriptor 1 of which nobody reads
// would end the process (os/signal, SIGPIPE).
func NewStdout(cfg Config) (*Exporter, error) {
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("export flows to standard output: %w", err)
	}
	return newStream(cfg, os.NewFile(uintptr(fd), "stdout")), nil
}

func newStream(cfg Config, to io.WriteCloser) *Exporter {
	return newExporter(cfg, model.ExportStdout, "", &stream{node: cfg.Node, to: to})
}

func (s *stream) send(_ context.Context, items []item) (taken, lost int, err error) {
	var text bytes.Buffer
	for _, i := range items {
		if err := line(&text, s.node, i); err != nil {
			return len(items), len(items), err
		}
	}
	if s.broken {
		if _, err := s.to.Write([]byte("\n")); err != nil {
			return 0, 0, err
		}
		s.broken = false
	}
	n, err := s.to.Write(text.Bytes())
	if err == nil {
		return len(items), 0, nil
	}
	written := text.Bytes()[:n]
	s.broken = n > 0 && written[n-1] != '\n'
	return bytes.Count(written, []byte("\n")), 0, err
}

func (s *stream) close() { _ = s.to.Close() }
