package controller

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// patcher writes a status; *kube.Cluster does.
type patcher interface {
	PatchStatus(ctx context.Context, gk schema.GroupKind, key string, patch []byte) error
}

// item is an object whose status may have to be written.
type item struct {
	gk  schema.GroupKind
	key string // namespace/name
}

// writer brings statuses to the API server.
type writer struct {
	objs  *kube.Objects
	st    *state.State
	api   patcher
	log   *slog.Logger
	kinds map[string]schema.GroupKind // by kind
	queue workqueue.TypedRateLimitingInterface[item]
}

const (
	writers    = 8 // at a time
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

func newWriter(objs *kube.Objects, st *state.State, api patcher, log *slog.Logger) *writer {
	w := &writer{
		objs: objs, st: st, api: api, log: log, kinds: map[string]schema.GroupKind{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[item](firstRetry, lastRetry)),
	}
	for _, gk := range kube.WritesStatus() {
		w.kinds[gk.Kind] = gk
	}
	return w
}

// run looks at every object once and then at those that change, until the context ends.
func (w *writer) run(ctx context.Context) {
	feed := w.st.Feed()
	defer feed.Close()
	snap := w.st.Snapshot()
	for _, gk := range w.kinds {
		for o := range w.objs.All(snap, gk) {
			w.queue.Add(item{gk, kube.Key(o)})
		}
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	defer wg.Wait()
	defer w.queue.ShutDown()
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed.Ready():
		}
		keys, _ := feed.Take()
		for k := range keys {
			if i, ok := w.item(k); ok {
				w.queue.Add(i)
			}
		}
	}
}

// item gives the object that a changed key is about: a status that is wanted, or an object with the status that it has.
func (w *writer) item(k state.Key) (item, bool) {
	if k.Index != "" {
		return item{}, false
	}
	if k.Table == w.st.Statuses.Name() {
		kind, key, _ := strings.Cut(k.Value, "/")
		gk, ok := w.kinds[kind]
		if !strings.Contains(key, "/") {
			key = model.Key("", key)
		}
		return item{gk, key}, ok
	}
	gk, ok := w.objs.TableKind(k.Table)
	if !ok || w.kinds[gk.Kind] != gk {
		return item{}, false
	}
	return item{gk, k.Value}, true
}

// next handles one item and tells whether there may be more.
func (w *writer) next(ctx context.Context) bool {
	i, shutdown := w.queue.Get()
	if shutdown {
		return false
	}
	defer w.queue.Done(i)
	if ctx.Err() != nil {
		return false
	}
	err := w.sync(ctx, i)
	switch {
	case err == nil || apierrors.IsNotFound(err):
		w.queue.Forget(i)
		return true
	case ctx.Err() != nil:
		return false
	case !apierrors.IsConflict(err): // who was faster is seen soon
		w.log.Warn("status not written, tried again", "kind", i.gk.Kind, "object", strings.TrimPrefix(i.key, "/"), "error", err)
	}
	w.queue.AddRateLimited(i)
	return true
}

// sync writes an object's status if it is not what is wanted.
func (w *writer) sync(ctx context.Context, i item) error {
	snap := w.st.Snapshot()
	obj, ok := w.objs.Get(snap, i.gk, i.key)
	if !ok {
		return nil
	}
	ref := model.ObjectRef{Group: i.gk.Group, Kind: i.gk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	want, _ := w.st.Statuses.Get(snap, ref.String())
	m := merger{
		controller: gateway.ControllerName, gatewayFeatures: gateway.GatewayFeatures(), meshFeatures: gateway.MeshFeatures(),
		now: metav1.NewTime(time.Now().Truncate(time.Second)), // the API keeps seconds
	}
	patch, err := m.patch(obj, want)
	if err != nil || patch == nil {
		return err
	}
	return w.api.PatchStatus(ctx, i.gk, i.key, patch)
}
