package controller

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// notices makes events about Services. Their status belongs to others, so what is wrong with one stands nowhere else in the
// API.
type notices struct {
	objs  *kube.Objects
	st    *state.State
	event eventCreator
	log   *slog.Logger
	queue *queue[string]

	mu sync.Mutex
	// said holds what an event told of each Service, by its key. Messages are left out: their numbers change.
	said map[string]map[failure]bool
}

func newNotices(objs *kube.Objects, st *state.State, event eventCreator, log *slog.Logger) *notices {
	n := &notices{objs: objs, st: st, event: event, log: log, said: map[string]map[failure]bool{}}
	n.queue = newQueue(log, "event of a Service", n.sync)
	return n
}

// run looks at every Service with a problem and then at those that change, until the context ends.
func (n *notices) run(ctx context.Context) {
	feed := n.st.Feed()
	defer feed.Close()
	for s := range n.st.Statuses.All(n.st.Snapshot()) {
		if s.Object.Kind == serviceKind.Kind && s.Object.Group == "" {
			n.queue.Add(model.Key(s.Object.Namespace, s.Object.Name))
		}
	}
	n.queue.run(ctx, feed, n.items)
}

func (n *notices) items(k state.Key, add func(string)) {
	if row, ok := n.st.Statuses.Row(k); ok {
		if kind, key := splitRef(row); kind == serviceKind.Kind {
			add(key)
		}
	}
}

// sync makes an event for each failure of a Service that there was none for while it lasts.
func (n *notices) sync(ctx context.Context, key string) error {
	snap := n.st.Snapshot()
	namespace, name := model.SplitKey(key)
	svc, there := n.objs.Services.Get(snap, key)
	status, wrong := n.st.Statuses.Get(snap, model.ObjectRef{Kind: serviceKind.Kind, Namespace: namespace, Name: name}.String())
	n.mu.Lock()
	before := n.said[key]
	n.mu.Unlock()
	now := map[failure]bool{}
	if there && wrong {
		for _, f := range failures(status) {
			about := failure{of: f.of, kind: f.kind, reason: f.reason}
			if now[about] = true; before[about] {
				continue
			}
			e, err := warning(svc, f, time.Now())
			if err == nil {
				err = n.event.CreateEvent(ctx, e)
			}
			if err != nil {
				return err
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(now) == 0 {
		delete(n.said, key)
	} else {
		n.said[key] = now
	}
	return nil
}
