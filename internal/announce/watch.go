package announce

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clientv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/cache"
)

// event is a Lease that changed or went, or a complete list.
type event struct {
	leases         []*coordinationv1.Lease
	gone, complete bool
}

// watchBackoff spaces attempts to reach the API server: while it is not seen no node can take over.
var watchBackoff = wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 4, Cap: 2 * time.Second}

// watch sends what happens to the agents' Leases until the context ends, a complete list first.
func (e *Elector) watch(ctx context.Context, leases clientv1.LeaseInterface) error {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			return leases.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.LabelSelector = selector
			w, err := leases.Watch(ctx, o)
			e.setError("watch", err)
			return w, err
		},
	}
	for ctx.Err() == nil {
		backoff := watchBackoff
		r := cache.NewReflectorWithOptions(lw, &coordinationv1.Lease{}, &receiver{ctx, e.events},
			cache.ReflectorOptions{Name: "Lease", Backoff: &backoff})
		if err := r.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			e.setError("watch", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchBackoff.Duration):
		}
	}
	return nil
}

// receiver is what a Reflector writes to.
type receiver struct {
	ctx context.Context
	to  chan<- event
}

func (r *receiver) send(e event) error {
	select {
	case r.to <- e:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

func (r *receiver) one(obj any, gone bool) error {
	if l, ok := obj.(*coordinationv1.Lease); ok {
		return r.send(event{leases: []*coordinationv1.Lease{l}, gone: gone})
	}
	return nil
}

func (r *receiver) Add(obj any) error    { return r.one(obj, false) }
func (r *receiver) Update(obj any) error { return r.one(obj, false) }
func (r *receiver) Delete(obj any) error { return r.one(obj, true) }
func (r *receiver) Resync() error        { return nil }

func (r *receiver) Replace(objs []any, _ string) error {
	e := event{complete: true}
	for _, obj := range objs {
		if l, ok := obj.(*coordinationv1.Lease); ok {
			e.leases = append(e.leases, l)
		}
	}
	return r.send(e)
}
