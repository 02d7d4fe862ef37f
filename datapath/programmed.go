package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// record schedules the next try of what failed, and logs what is new about it.
func (r *reconciler) record(o object, res result) {
	if res.err == nil {
		if r.schedule.succeed(o) != nil {
			r.log.Info("programmed the kernel, which failed before", "object", o.String())
		}
		return
	}
	before := r.schedule.fail(o, res.err, time.Now())
	if before == nil || before.Error() != res.err.Error() {
		r.log.Error("failed to program the kernel; it is tried again", "object", o.String(), "error", res.err)
	}
}

// publish writes what came of objects to Programmed.
func (r *reconciler) publish(snap *state.Snapshot, results map[object]result) {
	w := r.st.Write(r.st.Programmed)
	defer w.Commit()
	now := r.st.Snapshot()
	for o, res := range results {
		row := &model.Programmed{Subject: model.Subject{Kind: o.kind, Name: o.name}, Error: r.fault(o)}
		if row.Error == "" && !r.reported(snap, o) {
			r.st.Programmed.Delete(w, row.Key())
			continue
		}
		if !res.waits && res.err == nil {
			row.Revision = res.revision
		} else if old, ok := r.st.Programmed.Get(now, row.Key()); ok {
			row.Revision = old.Revision
		}
		r.st.Programmed.Put(w, row)
	}
}

// started writes whether everything that was read at the start was programmed once.
func (r *reconciler) started(done bool) {
	w := r.st.Write(r.st.Programmed)
	defer w.Commit()
	row := &model.Programmed{
		Subject: model.Start, Error: "not everything was programmed since the agent started",
	}
	if done {
		r.st.Programmed.Delete(w, row.Key())
	} else {
		r.st.Programmed.Put(w, row)
	}
}

// fault says what is wrong with an object, "" if nothing is.
func (r *reconciler) fault(o object) string {
	var errs []error
	if f := r.schedule.failed[o]; f != nil {
		errs = append(errs, f.err)
	}
	if l := r.workloads.local[o.name]; o.kind == model.SubjectWorkload && l != nil {
		errs = append(errs, l.closing)
	}
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return ""
}

// reported tells which objects have a row while nothing is wrong: Services, and workloads of this node. Those of other
// nodes are too many, and nobody waits for them.
func (r *reconciler) reported(snap *state.Snapshot, o object) bool {
	switch o.kind {
	case model.SubjectService:
		_, ok := r.st.Services.Get(snap, o.name)
		return ok
	case model.SubjectWorkload:
		w, ok := r.st.Workloads.Get(snap, o.name)
		return ok && joinable(w)
	}
	return false
}

// closeRequest asks to end connections of a workload.
type closeRequest struct {
	workload  string
	which     Connections
	forbidden func(local, remote netip.AddrPort) bool
	done      chan<- closeResult
}

type closeResult struct {
	count int
	err   error
}

// close answers a request. That it failed is a fault of the workload, until a later request succeeds.
func (r *reconciler) close(req closeRequest) {
	count, err := r.workloads.closeConnections(req.workload, req.which, req.forbidden)
	o := object{model.SubjectWorkload, req.workload}
	key := model.Subject{Kind: o.kind, Name: o.name}.Key()
	if old, ok := r.st.Programmed.Get(r.st.Snapshot(), key); ok {
		row := *old
		row.Error = r.fault(o)
		w := r.st.Write(r.st.Programmed)
		r.st.Programmed.Put(w, &row)
		w.Commit()
	}
	req.done <- closeResult{count, err}
}

// request has a closeRequest answered by the goroutine of run.
func (r *reconciler) request(ctx context.Context, req closeRequest) (int, error) {
	done := make(chan closeResult, 1)
	req.done = done
	select {
	case r.requests <- req:
	case <-ctx.Done():
		return 0, fmt.Errorf("close connections of workload %s: %w", req.workload, ctx.Err())
	}
	select {
	case res := <-done:
		return res.count, res.err
	case <-ctx.Done():
		return 0, fmt.Errorf("close connections of workload %s: %w", req.workload, ctx.Err())
	}
}
