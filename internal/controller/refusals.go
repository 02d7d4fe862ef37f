package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weft-mesh/weft/internal/hubble/relay"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/observe"
)

// Bounds of the Events of refused connections. A client chooses what it connects to, and so how many refusals there are.
const (
	maxRefusalsOfPod       = 8    // Events of a pod, at each end, that are kept count of
	maxRefusalsOfNamespace = 64   // of the pods of a namespace
	maxRefusals            = 1024 // of all
	// refusalsKept is how long after its last refusal an Event is remembered: as long as the API server keeps one by default.
	refusalsKept = time.Hour
	// Every refusalPause, refusalWrites are made at most; the count of one Event is written every refusalRecount.
	refusalPause   = 5 * time.Second
	refusalWrites  = 16
	refusalRecount = time.Minute
)

// eventWriter makes events and counts how often they happened again; *cluster.Cluster does.
type eventWriter interface {
	eventCreator
	PatchEvent(ctx context.Context, namespace, name string, patch []byte) (*eventsv1.Event, error)
}

// refusalEvents makes Events of the connections and requests that the mesh refuses, on the pod at the end that reports it: one
// for each pod, end, reason and set of policies, with a count. The name of an Event follows from these, so that another
// leader goes on with its count. Nothing of the clients' choice is part of them.
type refusalEvents struct {
	objs  *kube.Objects
	event eventWriter
	log   *slog.Logger
	now   func() time.Time

	mu   sync.Mutex
	seen map[refusal]*refusals
}

// refusal is what an Event is about.
type refusal struct {
	namespace, pod string
	uid            types.UID
	side           observe.Side
	reason         string // with the policies
}

// refusals are those of an Event.
type refusals struct {
	event *eventsv1.Event // as it is created
	// count is how many there were; of them, written are in the API server's count. made is whether it has the Event.
	count, written int
	made           bool
	last           time.Time // of the last refusal
	wrote          time.Time // of the last attempt to write
}

func newRefusalEvents(objs *kube.Objects, event eventWriter, log *slog.Logger) *refusalEvents {
	return &refusalEvents{objs: objs, event: event, log: log, now: time.Now, seen: map[refusal]*refusals{}}
}

// run makes Events of what nodes report from now on, until ctx ends.
func (e *refusalEvents) run(ctx context.Context, nodes *relay.Nodes) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { nodes.Refused(ctx, e.observe) })
	tick := time.NewTicker(refusalPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.flush(ctx)
		}
	}
}

// observe counts a refusal that a node reports. A node is believed about the pods that run on it alone.
func (e *refusalEvents) observe(node string, f *observe.Flow) {
	own := f.Destination
	if f.SeenAt == observe.AtSource {
		own = f.Source
	}
	pod, ok := e.objs.Pods.Get(e.objs.DB.Snapshot(), own.Workload)
	if !ok || pod.Spec.NodeName != node || f.Verdict != observe.Refused {
		return
	}
	key := refusal{namespace: pod.Namespace, pod: pod.Name, uid: pod.UID, side: f.SeenAt, reason: refusalReason(f, pod.Namespace)}
	now := e.now()
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.seen[key]
	if r == nil {
		if !e.room(key) {
			return
		}
		ev, err := refusalEvent(pod, key, f, now)
		if err != nil {
			e.log.Warn("failed to make an Event of a refused connection", "pod", own.Workload, "error", err)
			return
		}
		r = &refusals{event: ev}
		e.seen[key] = r
	}
	r.count++
	r.last = now
}

// room reports whether an Event may be made besides those that there are.
func (e *refusalEvents) room(key refusal) bool {
	ofPod, ofNamespace := 0, 0
	for k := range e.seen {
		if k.namespace == key.namespace {
			ofNamespace++
			if k.pod == key.pod && k.side == key.side {
				ofPod++
			}
		}
	}
	return ofPod < maxRefusalsOfPod && ofNamespace < maxRefusalsOfNamespace && len(e.seen) < maxRefusals
}

// flush writes what has waited longest, and forgets what has not happened for long or is of pods that are gone: their
// successors need the room.
func (e *refusalEvents) flush(ctx context.Context) {
	now := e.now()
	type due struct {
		count int
		last  time.Time
		r     *refusals
	}
	var all []due
	snap := e.objs.DB.Snapshot()
	e.mu.Lock()
	for k, r := range e.seen {
		pod, ok := e.objs.Pods.Get(snap, k.namespace+"/"+k.pod)
		switch {
		case now.Sub(r.last) > refusalsKept, !ok, pod.UID != k.uid:
			delete(e.seen, k)
		case r.count > r.written && now.Sub(r.wrote) >= refusalRecount:
			all = append(all, due{r.count, r.last, r})
		}
	}
	e.mu.Unlock()
	slices.SortFunc(all, func(a, b due) int { return a.r.wrote.Compare(b.r.wrote) })
	var failed error
	for _, d := range all[:min(len(all), refusalWrites)] {
		d.r.wrote = now
		if err := e.write(ctx, d.r, d.count, d.last); err != nil {
			failed = cmp.Or(failed, err)
		}
	}
	if failed != nil && ctx.Err() == nil {
		e.log.Warn("failed to write Events of refused connections; they are tried again", "error", failed)
	}
}

// write brings an Event to a count.
func (e *refusalEvents) write(ctx context.Context, r *refusals, count int, last time.Time) error {
	if !r.made {
		before, err := e.make(ctx, r)
		if err != nil {
			return err
		}
		r.made, r.written = true, max(before, 1)
		count += before
	}
	if count <= r.written {
		return nil
	}
	series := eventsv1.EventSeries{Count: int32(min(count, math.MaxInt32)), LastObservedTime: metav1.NewMicroTime(last)}
	patch, err := json.Marshal(map[string]any{"series": series})
	if err != nil {
		return err
	}
	_, err = e.event.PatchEvent(ctx, r.event.Namespace, r.event.Name, patch)
	switch {
	case apierrors.IsNotFound(err): // the API server keeps Events for an hour, and it is made again
		e.mu.Lock()
		r.count -= r.written
		e.mu.Unlock()
		r.made, r.written = false, 0
	case err == nil:
		r.written = count
	}
	return err
}

// make creates an Event, and returns the count of an earlier leader if it made the Event.
func (e *refusalEvents) make(ctx context.Context, r *refusals) (before int, err error) {
	if err = e.event.CreateEvent(ctx, r.event); !apierrors.IsAlreadyExists(err) {
		return 0, err
	}
	there, err := e.event.PatchEvent(ctx, r.event.Namespace, r.event.Name, []byte("{}"))
	if err != nil {
		return 0, err
	}
	before = 1
	if there.Series != nil {
		before = int(there.Series.Count)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r.count += before
	return before, nil
}

// refusalReason says what refused a flow, to whom may read Events of a namespace: policies of others are not named.
func refusalReason(f *observe.Flow, namespace string) string {
	out := cmp.Or(f.Reason, "refused")
	var names []string
	for _, p := range f.Policies {
		if ns, _ := model.SplitKey(p); ns == namespace {
			names = append(names, p)
		}
	}
	if len(names) > 0 {
		out += ": " + strings.Join(names, ", ")
	}
	return nodereport.Printable(out, maxRefusalText)
}
