package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clientv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// reportPause is how long the rows of a node stay as they are at least: a node cannot make conditions change faster.
	reportPause = 5 * time.Second
	// reportLook is how often it is looked whether reports ended.
	reportLook = time.Second
	// reportLasts is how long a report counts whose Lease does not say, and longestReport the most that a Lease may say.
	reportLasts, longestReport = time.Minute, 5 * time.Minute
	// reportsFirst bounds how long the first translation waits for the reports.
	reportsFirst = 10 * time.Second
)

// incident is a row of something that happened to a process of a node.
type incident struct {
	node string
	nodereport.Incident
}

func (i *incident) key() string { return fmt.Sprintf("%s|%s|%d", i.node, i.Kind, i.Time) }

func newIncidents(db *state.DB) *state.Table[*incident] {
	return state.NewTable(db, "controller-incidents", (*incident).key)
}

// reports turns what nodes report into rows. It is the only writer of st.Rejections and of incidents.
type reports struct {
	objs      *kube.Objects
	st        *state.State
	incidents *state.Table[*incident]
	log       *slog.Logger
	nodes     map[string]*reported
	events    chan reportEvent
	// broken is true while the Leases cannot be watched: that a report is not renewed means nothing then.
	broken atomic.Bool
	first  chan struct{} // closed when the reports that were there at the start are rows
}

// reportEvent is a Lease that changed or went, or a complete list, or that there is none to be had.
type reportEvent struct {
	leases                 []*coordinationv1.Lease
	gone, complete, failed bool
}

// reported is a node's Lease as it was seen.
type reported struct {
	renewed string
	seen    time.Time // by our clock, when it was last renewed
	lasts   time.Duration
	text    string
	// applied is the text that the rows are of, and these are their keys.
	applied    string
	appliedAt  time.Time
	rejections []string
	incidents  []string
}

func newReports(objs *kube.Objects, st *state.State, log *slog.Logger) *reports {
	return &reports{
		objs: objs, st: st, incidents: newIncidents(st.DB), log: log, nodes: map[string]*reported{},
		events: make(chan reportEvent, 16), first: make(chan struct{}),
	}
}

// run keeps the rows until the context ends. loaded is closed when the nodes are known.
func (r *reports) run(ctx context.Context, loaded <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-loaded:
	}
	patience := time.After(reportsFirst)
	select {
	case <-ctx.Done():
		return nil
	case e := <-r.events:
		r.take(e, time.Now())
	case <-patience:
	}
	r.step(time.Now())
	close(r.first)
	look := time.NewTicker(reportLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-r.events:
			r.take(e, time.Now())
		case <-look.C:
		}
		r.step(time.Now())
	}
}

// take takes in what the watch shows.
func (r *reports) take(e reportEvent, now time.Time) {
	there := map[string]bool{}
	for _, l := range e.leases {
		node, ok := strings.CutPrefix(l.Name, nodereport.LeasePrefix)
		if !ok || node == "" {
			continue
		}
		there[node] = true
		n := r.nodes[node]
		if n == nil {
			n = &reported{}
			r.nodes[node] = n
		}
		if renewed := renewal(l); e.complete || renewed != n.renewed {
			// After an outage every node has the time of its Lease again.
			n.renewed, n.seen = renewed, now
		}
		n.lasts, n.text = reportLasts, l.Annotations[nodereport.Annotation]
		if s := l.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
			n.lasts = min(time.Duration(*s)*time.Second, longestReport)
		}
		if e.gone {
			n.text = ""
		}
	}
	if !e.complete {
		return
	}
	for node, n := range r.nodes {
		if !there[node] {
			n.text = ""
		}
	}
}

func renewal(l *coordinationv1.Lease) string {
	if l.Spec.RenewTime == nil {
		return ""
	}
	return l.Spec.RenewTime.UTC().Format(time.RFC3339Nano)
}

// step brings the rows up to what nodes say that are there and renew their Leases.
func (r *reports) step(now time.Time) {
	snap := r.st.Snapshot()
	for node, n := range r.nodes {
		text := n.text
		if _, ok := r.objs.Nodes.Get(snap, model.Key("", node)); !ok || now.Sub(n.seen) > n.lasts && !r.broken.Load() {
			text = ""
		}
		if text != n.applied && (n.appliedAt.IsZero() || now.Sub(n.appliedAt) >= reportPause) {
			r.apply(node, n, text)
			n.applied, n.appliedAt = text, now
		}
		if n.text == "" && n.applied == "" && now.Sub(n.appliedAt) >= reportPause {
			delete(r.nodes, node)
		}
	}
}

// apply makes the rows of a node those of its report.
func (r *reports) apply(node string, n *reported, text string) {
	report, err := nodereport.Decode(node, text)
	if err != nil {
		r.log.Warn("what a node reports is left out", "node", node, "error", err)
	}
	w := r.st.Write(r.st.Rejections, r.incidents)
	defer w.Abort()
	var rejections, incidents []string
	for _, x := range report.Refused {
		rejections = append(rejections, x.Key())
		r.st.Rejections.Put(w, x)
	}
	for _, i := range report.Incidents {
		row := &incident{node, i}
		incidents = append(incidents, row.key())
		r.incidents.Put(w, row)
	}
	for _, key := range n.rejections {
		if !slices.Contains(rejections, key) {
			r.st.Rejections.Delete(w, key)
		}
	}
	for _, key := range n.incidents {
		if !slices.Contains(incidents, key) {
			r.incidents.Delete(w, key)
		}
	}
	w.Commit()
	n.rejections, n.incidents = rejections, incidents
}

// watch sends what happens to the nodes' Leases until the context ends, a complete list first.
func (r *reports) watch(ctx context.Context, leases clientv1.LeaseInterface) error {
	seen := func(err error) {
		if r.broken.Store(err != nil); err != nil && ctx.Err() == nil {
			r.send(ctx, reportEvent{failed: true})
		}
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = nodereport.Selector
			list, err := leases.List(ctx, o)
			seen(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.LabelSelector = nodereport.Selector
			w, err := leases.Watch(ctx, o)
			seen(err)
			return w, err
		},
	}
	reflector := cache.NewReflectorWithOptions(lw, &coordinationv1.Lease{}, &leaseReceiver{ctx, r}, cache.ReflectorOptions{Name: "reports of nodes"})
	reflector.RunWithContext(ctx)
	return nil
}

func (r *reports) send(ctx context.Context, e reportEvent) {
	select {
	case r.events <- e:
	case <-ctx.Done():
	}
}

// leaseReceiver is what the Reflector writes to.
type leaseReceiver struct {
	ctx context.Context
	r   *reports
}

func (l *leaseReceiver) one(obj any, gone bool) error {
	if lease, ok := obj.(*coordinationv1.Lease); ok {
		l.r.send(l.ctx, reportEvent{leases: []*coordinationv1.Lease{lease}, gone: gone})
	}
	return l.ctx.Err()
}

func (l *leaseReceiver) Add(obj any) error    { return l.one(obj, false) }
func (l *leaseReceiver) Update(obj any) error { return l.one(obj, false) }
func (l *leaseReceiver) Delete(obj any) error { return l.one(obj, true) }
func (l *leaseReceiver) Resync() error        { return nil }

func (l *leaseReceiver) Replace(objs []any, _ string) error {
	e := reportEvent{complete: true}
	for _, obj := range objs {
		if lease, ok := obj.(*coordinationv1.Lease); ok {
			e.leases = append(e.leases, lease)
		}
	}
	l.r.send(l.ctx, e)
	return l.ctx.Err()
}
