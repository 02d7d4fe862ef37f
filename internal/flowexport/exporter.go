package flowexport

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// maxQueue bounds the flows that wait for a target, besides a batch that is on its way. With a flow of a usual size both
	// are some 3 MiB.
	maxQueue = 4096
	// maxBatch bounds the flows that are sent at once.
	maxBatch = 512
	// lastFlush is how long the end of an Exporter may wait for a target.
	lastFlush = 500 * time.Millisecond
	// reportEvery bounds how often the rows are written.
	reportEvery = time.Second

	firstRetry, lastRetry = time.Second, 30 * time.Second
)

// Config is what the Exporters of a node share.
type Config struct {
	Node, Version string // of weft
	Flows         *observe.Store
	State         *state.State
	Filter        observe.Filter
	Log           *slog.Logger
}

// item is a flow, with the number of those that are missing before it.
type item struct {
	lost uint64
	flow *observe.Flow
}

// sink is where an Exporter sends flows. One goroutine uses it.
type sink interface {
	// send sends flows in order. taken of them are not to be sent again, of which lost were refused for good. If err is nil,
	// all are taken.
	send(ctx context.Context, items []item) (taken, lost int, err error)
	close()
}

// Exporter sends flows to one target.
type Exporter struct {
	cfg  Config
	to   string // the key of its row
	name string // of the target
	sink sink
	// linger is how long a flow may wait for others to be sent with it.
	linger time.Duration
	queue  chan item

	mu      sync.Mutex
	lost    uint64
	err     string
	changed chan struct{} // capacity 1: lost or err is another
}

func newExporter(cfg Config, to, name string, s sink) *Exporter {
	return &Exporter{cfg: cfg, to: to, name: name, sink: s, queue: make(chan item, maxQueue), changed: make(chan struct{}, 1)}
}

// Run sends the flows that come from the call on, until ctx ends. It returns nil. A target that blocks then is left alone with
// what was sent to it.
func (x *Exporter) Run(ctx context.Context) error {
	events := x.cfg.Flows.Follow(ctx, x.cfg.Filter)
	var r reporter
	r.report(x)
	var all sync.WaitGroup
	all.Go(func() { x.read(events) })
	all.Go(func() { r.run(ctx, x) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer x.sink.close()
		x.write(ctx)
	}()
	all.Wait()
	select {
	case <-done:
	case <-time.After(lastFlush):
	}
	r.report(x)
	return nil
}

// read puts flows into the queue. It never waits for the target.
func (x *Exporter) read(events iter.Seq[observe.Event]) {
	var lost uint64
	for e := range events {
		x.drop(e.Late)
		lost += e.Lost
		if e.Flow == nil {
			continue
		}
		f := *e.Flow // the event shares memory with those that came with it
		select {
		case x.queue <- item{lost, &f}:
			lost = 0
		default:
			lost++
			x.drop(1)
			x.overflowed()
		}
	}
}

// write sends what is in the queue until ctx ends, and then what is left if the target took what came before.
func (x *Exporter) write(ctx context.Context) {
	for {
		batch := x.batch(ctx)
		if len(batch) == 0 || !x.deliver(ctx, batch) {
			return
		}
	}
}

// batch waits for flows. It returns none if ctx has ended and the queue is empty.
func (x *Exporter) batch(ctx context.Context) []item {
	var out []item
	select {
	case i := <-x.queue:
		out = append(out, i)
	case <-ctx.Done():
	}
	var more <-chan time.Time
	if x.linger > 0 {
		t := time.NewTimer(x.linger)
		defer t.Stop()
		more = t.C
	}
	for len(out) < maxBatch {
		select {
		case i := <-x.queue:
			out = append(out, i)
			continue
		default:
		}
		if more == nil || ctx.Err() != nil {
			break
		}
		select {
		case i := <-x.queue:
			out = append(out, i)
		case <-more:
			more = nil
		case <-ctx.Done():
		}
	}
	return out
}

// deliver sends a batch until the target has taken it, and reports whether it has. Once ctx has ended it tries once.
func (x *Exporter) deliver(ctx context.Context, batch []item) bool {
	wait := firstRetry
	for {
		ended := ctx.Err() != nil
		taken, lost, err := x.send(ctx, batch)
		x.drop(uint64(lost))
		batch = batch[taken:]
		switch {
		case err == nil:
			x.fail("")
			return true
		case len(batch) == 0:
			x.fail(err.Error())
			return true
		case !ended && ctx.Err() != nil: // the end broke it off
			continue
		}
		x.fail(err.Error())
		if !ended {
			select {
			case <-time.After(wait):
				wait = min(2*wait, lastRetry)
				continue
			case <-ctx.Done():
			}
		}
		x.drop(uint64(len(batch)))
		return false
	}
}

// send sends flows; after the end of ctx too, for a short time.
func (x *Exporter) send(ctx context.Context, batch []item) (taken, lost int, err error) {
	if ctx.Err() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
		defer cancel()
	}
	return x.sink.send(ctx, batch)
}

// drop counts flows that the target does not get.
func (x *Exporter) drop(n uint64) {
	if n == 0 {
		return
	}
	x.mu.Lock()
	x.lost += n
	x.mu.Unlock()
	x.wake()
}

// fail remembers why the target does not take flows; "" if it does.
func (x *Exporter) fail(why string) {
	x.mu.Lock()
	same := x.err == why
	x.err = why
	x.mu.Unlock()
	if !same {
		x.wake()
	}
}

// overflowed says that flows were dropped, unless it is known already why the target takes none.
func (x *Exporter) overflowed() {
	x.mu.Lock()
	fine := x.err == ""
	x.mu.Unlock()
	if fine {
		x.fail("flows come faster than it takes them")
	}
}

func (x *Exporter) wake() {
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// reporter writes the rows of an Exporter.
type reporter struct {
	row    model.Export
	lost   uint64
	logged string
	begun  bool
}

// run writes the rows when they change, not too often, until ctx ends.
func (r *reporter) run(ctx context.Context, x *Exporter) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.changed:
		}
		r.report(x)
		select {
		case <-ctx.Done():
			return
		case <-time.After(reportEvery):
		}
	}
}

func (r *reporter) report(x *Exporter) {
	x.mu.Lock()
	lost, why := x.lost, x.err
	x.mu.Unlock()
	if r.begun && lost == r.lost && why == r.row.Error {
		return
	}
	if why != r.row.Error || !r.begun {
		r.row = model.Export{To: x.to, Target: x.name, Error: why}
		if why != "" {
			r.row.Since = time.Now()
		}
	}
	r.begun, r.lost = true, lost
	if why != "" && why != r.logged {
		r.logged = why
		x.cfg.Log.Warn("flows are not exported; it is tried again", "to", x.to, "target", x.name, "error", why)
	}
	st, row := x.cfg.State, r.row
	w := st.Write(st.Exports, st.Lost)
	defer w.Commit()
	st.Exports.Put(w, &row)
	st.Lost.Put(w, &model.Lost{Source: model.LostExport(x.to), Count: lost})
}
