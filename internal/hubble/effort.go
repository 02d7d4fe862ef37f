package hubble

import (
	"context"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/observe"
)

const (
	// DefaultEffort is how long the filters of a request may compute at a node: without it, expressions and selectors that are
	// within their bounds could take a processor for minutes.
	DefaultEffort = 5 * time.Second
	// effortShare is the share of the time since then that the filters of a request that follows may compute besides: 1/20. An
	// ordinary filter takes a microsecond for a flow.
	effortShare = 20
)

// meter ends a request whose filters compute for too long. It is for one goroutine.
type meter struct {
	ctx    context.Context
	end    context.CancelCauseFunc
	effort time.Duration
	began  time.Time
	spent  time.Duration
}

// metered returns a context that ends with the request, or when its filters have computed for too long, with the status that
// the request is to end with.
func (o *Observer) metered(ctx context.Context) (context.Context, *meter, func()) {
	ctx, end := context.WithCancelCause(ctx)
	m := &meter{ctx: ctx, end: end, effort: o.cfg.Effort, began: time.Now()}
	if m.effort == 0 {
		m.effort = DefaultEffort
	}
	return ctx, m, func() { end(nil) }
}

// measured returns a match of flows in Hubble's form, and counts the time that it takes; not that of making them. It takes no flow
// when the request has ended.
func (m *meter) measured(match func(*flowpb.Flow) bool, form func(*observe.Flow) *flowpb.Flow) func(*observe.Flow) bool {
	return func(f *observe.Flow) bool {
		if m.ctx.Err() != nil {
			return false
		}
		formed := form(f)
		began := time.Now()
		ok := match(formed)
		now := time.Now()
		if m.spent += now.Sub(began); m.spent > m.effort+now.Sub(m.began)/effortShare {
			m.end(status.Errorf(codes.ResourceExhausted, "the filters of the request have computed for %s at this node; use fewer or simpler ones", m.spent.Round(time.Millisecond)))
		}
		return ok
	}
}
