package flowexport

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is when a test gives up on what must come.
const deadline = time.Minute

// world is a node whose flows are exported.
type world struct {
	t   *testing.T
	cfg Config
}

func newWorld(t *testing.T) *world {
	return &world{t, Config{
		Node: "n1", Version: "v1", Flows: observe.NewStore(100_000), State: state.New(state.NewDB()),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}}
}

// run runs an Exporter and returns what ends it and waits for it. The first flows come after it follows them.
func (w *world) run(x *Exporter) (stop func()) {
	w.t.Helper()
	tx := w.cfg.State.Write(w.cfg.State.Exports)
	w.cfg.State.Exports.Delete(tx, x.to) // of an Exporter before it
	tx.Commit()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("the Exporter: %v", err)
			}
		case <-time.After(deadline):
			w.t.Error("the Exporter does not end")
		}
	})
	w.t.Cleanup(stop)
	w.until("the row", func() bool { return w.row(x) != nil })
	return stop
}

func (w *world) row(x *Exporter) *model.Export {
	row, _ := w.cfg.State.Exports.Get(w.cfg.State.Snapshot(), x.to)
	return row
}

func (w *world) lost(x *Exporter) uint64 {
	row, ok := w.cfg.State.Lost.Get(w.cfg.State.Snapshot(), model.LostExport(x.to))
	if !ok {
		return 0
	}
	return row.Count
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s does not come", what)
		}
	}
}

// add adds flows to pods that are named by their numbers, from first on.
func (w *world) add(first, n int) {
	for i := range n {
		w.cfg.Flows.Add(numbered(first + i))
	}
}

func numbered(n int) observe.Flow {
	return observe.Flow{
		Time: time.Unix(1_800_000_000, 0), Verdict: observe.Forwarded, Layer: observe.L4, SeenAt: observe.AtSource,
		Source:      observe.Peer{Address: netip.MustParseAddrPort("10.0.0.1:40000"), Workload: "shop/client"},
		Destination: observe.Peer{Address: netip.MustParseAddrPort("10.0.0.2:80"), Workload: fmt.Sprintf("shop/%d", n)},
	}
}

// entry is a line of an export.
type entry struct {
	Node string
	Lost uint64
	Flow *observe.Flow
}

func read(t *testing.T, r io.Reader) (out []entry) {
	t.Helper()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var e entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Flow == nil || e.Node != "n1" {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		out = append(out, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func readFile(t *testing.T, path string) []entry {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	whole := text[:strings.LastIndexByte(string(text), '\n')+1] // the rest may be on its way
	return read(t, strings.NewReader(string(whole)))
}

func (e entry) number(t *testing.T) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(e.Flow.Destination.Workload, "shop/%d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
