package controller

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// maxNodeEvents bounds the incidents of one node that become Events in each nodeEventsSpan, whatever the node reports.
	maxNodeEvents  = 8
	nodeEventsSpan = 10 * time.Minute
)

// incidentEvents makes Events of what happened to nodes' processes, on the Node and on the pod of its weft proxy. The name
// of an Event follows from the incident, so that another leader does not make it again.
type incidentEvents struct {
	objs      *kube.Objects
	incidents *state.Table[*incident]
	db        *state.DB
	namespace string // of weft proxy's pods
	event     eventCreator
	log       *slog.Logger
	queue     *queue[string]

	mu    sync.Mutex
	said  map[string]bool // by key of the incident
	spent map[string]*span
}

// span counts the incidents of a node that became Events since a time.
type span struct {
	since time.Time
	n     int
}

func newIncidentEvents(objs *kube.Objects, incidents *state.Table[*incident], namespace string, event eventCreator, log *slog.Logger) *incidentEvents {
	e := &incidentEvents{
		objs: objs, incidents: incidents, db: objs.DB, namespace: namespace, event: event, log: log,
		said: map[string]bool{}, spent: map[string]*span{},
	}
	e.queue = newQueue(log, "event of a node", e.sync)
	return e
}

// run makes Events of the incidents that there are and of those that come, until the context ends.
func (e *incidentEvents) run(ctx context.Context) {
	feed := e.db.Feed()
	defer feed.Close()
	for i := range e.incidents.All(e.db.Snapshot()) {
		e.queue.Add(i.key())
	}
	e.queue.run(ctx, feed, func(k state.Key, add func(string)) {
		if key, ok := e.incidents.Row(k); ok {
			add(key)
		}
	})
}

// sync makes the Events of an incident unless they were made.
func (e *incidentEvents) sync(ctx context.Context, key string) error {
	snap := e.db.Snapshot()
	i, ok := e.incidents.Get(snap, key)
	if !ok {
		e.forget(key)
		return nil
	}
	if !e.allowed(i, time.Now()) {
		return nil
	}
	for _, obj := range e.regarding(snap, i.node) {
		ev, err := warning(obj, failure{kind: string(i.Kind), reason: string(i.Kind), message: i.text()}, time.Now())
		if err != nil {
			return err
		}
		ev.Name, ev.Action = cut(obj.GetName(), 200)+"."+i.name(), "Restart"
		if err := e.event.CreateEvent(ctx, ev); err != nil && !apierrors.IsAlreadyExists(err) {
			e.failed(i)
			return err
		}
	}
	return nil
}

// allowed reports whether an incident is to become Events, and counts it.
func (e *incidentEvents) allowed(i *incident, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.said[i.key()] {
		return false
	}
	s := e.spent[i.node]
	if s == nil || now.Sub(s.since) > nodeEventsSpan {
		s = &span{since: now}
		e.spent[i.node] = s
	}
	e.said[i.key()] = true
	s.n++
	return s.n <= maxNodeEvents
}

// failed takes back that an incident was counted: it is tried again.
func (e *incidentEvents) failed(i *incident) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.said, i.key())
	if s := e.spent[i.node]; s != nil {
		s.n--
	}
}

// forget drops what is known of an incident that is not reported any more, and of nodes that have none left to count.
func (e *incidentEvents) forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.said, key)
	for node, s := range e.spent {
		if time.Since(s.since) > nodeEventsSpan {
			delete(e.spent, node)
		}
	}
}

// regarding lists the objects that Events of a node are about.
func (e *incidentEvents) regarding(snap *state.Snapshot, node string) []metav1.Object {
	var out []metav1.Object
	if n, ok := e.objs.Nodes.Get(snap, model.Key("", node)); ok {
		out = append(out, n)
	}
	for p := range e.objs.Pods.By(snap, kube.ByNamespace, e.namespace) {
		if p.Spec.NodeName == node && p.Labels["app.kubernetes.io/name"] == "weft" && p.Labels["app.kubernetes.io/component"] == "proxy" &&
			p.Status.Phase == corev1.PodRunning {
			out = append(out, p)
		}
	}
	return out
}

// text says what happened, with what the node said of it.
func (i *incident) text() string {
	var text string
	switch i.Kind {
	case nodereport.EnvoyReplaced:
		text = "weft proxy replaced an Envoy that stayed in overload; connections through it ended"
	case nodereport.EnvoyDied:
		text = "Envoy ended by itself, and weft proxy starts it again; connections through it ended"
	case nodereport.EnvoyFull:
		text = "Envoy has as many connections as it may have and refuses others, whoever makes them; weft observe shows who opens connections"
	case nodereport.TunnelDied:
		text = "weft tunnel ended by itself, and weft proxy starts it again; connections through it ended"
	}
	if i.Detail != "" {
		text = fmt.Sprintf("%s (%s)", text, i.Detail)
	}
	return text
}

// name is the end of the names of the incident's Events.
func (i *incident) name() string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(i.key())) // it cannot fail
	return strconv.FormatUint(h.Sum64(), 16) + "." + lower(string(i.Kind))
}
