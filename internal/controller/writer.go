package controller

import (
	"context"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// patcher writes a status; *cluster.Cluster does.
type patcher interface {
	PatchStatus(ctx context.Context, gk schema.GroupKind, key string, patch []byte) error
}

// item is an object whose status may have to be written.
type item struct {
	gk  schema.GroupKind
	key string // namespace/name
}

func (i item) String() string { return i.gk.Kind + " " + strings.TrimPrefix(i.key, "/") }

// writer brings statuses to the API server.
type writer struct {
	objs  *kube.Objects
	st    *state.State
	notes *state.Table[*note]
	crds  *state.Table[*kindSchema]
	api   patcher
	event eventCreator
	log   *slog.Logger
	kinds map[string]schema.GroupKind // by kind
	queue *queue[item]
}

func newWriter(objs *kube.Objects, st *state.State, notes *state.Table[*note], crds *state.Table[*kindSchema], api patcher, event eventCreator, log *slog.Logger) *writer {
	w := &writer{objs: objs, st: st, notes: notes, crds: crds, api: api, event: event, log: log, kinds: map[string]schema.GroupKind{}}
	w.queue = newQueue(log, "status", w.sync)
	for _, gk := range cluster.WritesStatus() {
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
	w.queue.run(ctx, feed, w.items)
}

// items adds the object that a changed key is about: a status that is wanted, or an object with the status that it has.
func (w *writer) items(k state.Key, add func(item)) {
	if k.Index != "" {
		return
	}
	if k.Table == w.st.Statuses.ID() || k.Table == w.notes.ID() {
		kind, key := splitRef(k.Value)
		if gk, ok := w.kinds[kind]; ok {
			add(item{gk, key})
		}
		return
	}
	if k.Table == w.crds.ID() { // what is supported may be more or less now
		snap := w.st.Snapshot()
		for _, kind := range []string{"GatewayClass", "XMesh"} {
			for o := range w.objs.All(snap, w.kinds[kind]) {
				add(item{w.kinds[kind], kube.Key(o)})
			}
		}
		return
	}
	if gk, ok := w.objs.TableKind(k.Table); ok && w.kinds[gk.Kind] == gk {
		add(item{gk, k.Value})
	}
}

// splitRef takes the text of a model.ObjectRef apart.
func splitRef(ref string) (kind, key string) {
	kind, key, _ = strings.Cut(ref, "/")
	if !strings.Contains(key, "/") {
		key = model.Key("", key)
	}
	return kind, key
}

// sync writes an object's status if it is not what is wanted, and tells by events what fails now.
func (w *writer) sync(ctx context.Context, i item) error {
	snap := w.st.Snapshot()
	obj, ok := w.objs.Get(snap, i.gk, i.key)
	if !ok {
		return nil
	}
	ref := model.ObjectRef{Group: i.gk.Group, Kind: i.gk.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	want, _ := w.st.Statuses.Get(snap, ref.String())
	if n, ok := w.notes.Get(snap, ref.String()); ok {
		want = n.addTo(want)
	}
	m := merger{
		controller: gateway.ControllerName,
		now:        metav1.NewTime(time.Now().Truncate(time.Second)), // the API keeps seconds
	}
	if i.gk.Kind == "GatewayClass" || i.gk.Kind == "XMesh" {
		m.gatewayFeatures, m.meshFeatures = supported(w.crds, snap)
	}
	patch, err := m.patch(obj, want)
	if err != nil || patch == nil {
		return err
	}
	if err := w.api.PatchStatus(ctx, i.gk, i.key, patch); err != nil {
		return err
	}
	if want != nil {
		warn(ctx, w.event, w.log, obj, want, time.Now())
	}
	return nil
}
