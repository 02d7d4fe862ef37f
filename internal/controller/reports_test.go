package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/state"
)

// reportWorld is a reader of reports with a clock of its own.
type reportWorld struct {
	*testing.T
	objs *kube.Objects
	st   *state.State
	r    *reports
	now  time.Time
	wire int // renewals
}

func newReportWorld(t *testing.T, nodes ...string) *reportWorld {
	db := state.NewDB()
	w := &reportWorld{T: t, objs: kube.NewObjects(db), st: state.New(db), now: time.Unix(1_700_000_000, 0)}
	w.r = newReports(w.objs, w.st, slog.New(slog.DiscardHandler))
	for _, n := range nodes {
		w.put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n, UID: "uid"}})
	}
	return w
}

func (w *reportWorld) put(obj runtime.Object) {
	w.Helper()
	txn := w.objs.Write()
	if err := w.objs.Put(txn, obj); err != nil {
		w.Fatal(err)
	}
	txn.Commit()
}

// lease is a node's Lease, renewed.
func (w *reportWorld) lease(node, text string) *coordinationv1.Lease {
	w.wire++
	seconds := int32(60)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: nodereport.LeasePrefix + node, Annotations: map[string]string{nodereport.Annotation: text}},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &node, LeaseDurationSeconds: &seconds, RenewTime: &metav1.MicroTime{Time: time.Unix(int64(w.wire), 0)},
		},
	}
}

func (w *reportWorld) says(node, text string) {
	w.r.take(reportEvent{leases: []*coordinationv1.Lease{w.lease(node, text)}}, w.now)
	w.r.step(w.now)
}

func (w *reportWorld) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.r.step(w.now)
}

func (w *reportWorld) want(what string, keys ...string) {
	w.Helper()
	var got []string
	for r := range w.st.Rejections.All(w.st.Snapshot()) {
		got = append(got, r.Key())
	}
	for i := range w.r.incidents.All(w.st.Snapshot()) {
		got = append(got, i.node+" "+string(i.Kind))
	}
	if !slices.Equal(got, keys) {
		w.Errorf("%s: rows are %q, want %q", what, got, keys)
	}
}

func refusing(resources ...string) string {
	r := nodereport.Report{}
	for _, x := range resources {
		r.Refused = append(r.Refused, &model.Rejection{Resource: x, Message: "no"})
	}
	return r.Encode()
}

func TestReportsBecomeRows(t *testing.T) {
	w := newReportWorld(t, "a", "b")
	w.says("a", refusing("Listener/x", "Listener/y"))
	w.says("b", refusing("Listener/x"))
	w.says("stranger", refusing("Listener/x"))
	w.want("two nodes and a Lease of none", "a|Listener/x", "a|Listener/y", "b|Listener/x")
	w.says("a", refusing("Listener/y"))
	w.want("a node cannot change its rows at once", "a|Listener/x", "a|Listener/y", "b|Listener/x")
	w.pass(reportPause)
	w.want("it can a moment later", "a|Listener/y", "b|Listener/x")
	w.says("b", "rubbish")
	w.pass(reportPause)
	w.want("what cannot be read", "a|Listener/y")
	w.r.take(reportEvent{leases: []*coordinationv1.Lease{w.lease("a", refusing("Listener/y"))}, gone: true}, w.now)
	w.pass(reportPause)
	w.want("the Lease is deleted")
}

func TestReportsEnd(t *testing.T) {
	w := newReportWorld(t, "a", "b")
	w.says("a", refusing("Listener/x"))
	w.says("b", refusing("Listener/x"))
	w.pass(59 * time.Second)
	w.says("b", refusing("Listener/x"))
	w.pass(2 * time.Second)
	w.want("a was not renewed for a minute", "b|Listener/x")
	w.says("a", refusing("Listener/x"))
	w.pass(reportPause)
	w.want("a is renewed", "a|Listener/x", "b|Listener/x")

	txn := w.objs.Write()
	if err := w.objs.Delete(txn, schema.GroupKind{Kind: "Node"}, "/a"); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	w.pass(reportPause)
	w.want("node a is deleted", "b|Listener/x")

	w.r.broken.Store(true)
	w.pass(time.Hour)
	w.want("an outage of the API server says nothing of nodes", "b|Listener/x")
	w.r.take(reportEvent{complete: true, leases: []*coordinationv1.Lease{w.lease("b", refusing("Listener/x"))}}, w.now)
	w.r.broken.Store(false)
	w.pass(time.Second)
	w.want("and after it they have their time again", "b|Listener/x")
	w.r.take(reportEvent{complete: true}, w.now)
	w.pass(reportPause)
	w.want("the Lease went during the outage")
}

// eventServer refuses an Event with a name that it has.
type eventServer struct {
	events map[string]*eventsv1.Event
	fails  bool
}

func (s *eventServer) CreateEvent(_ context.Context, e *eventsv1.Event) error {
	if s.fails {
		return errors.New("no server")
	}
	if s.events[e.Name] != nil {
		return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
	}
	s.events[e.Name] = e
	return nil
}

// TestIncidentsBecomeEvents: on the Node and the pod of its weft proxy, once, also by another leader, and not without end.
func TestIncidentsBecomeEvents(t *testing.T) {
	w := newReportWorld(t, "a")
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "weft-system", Name: "weft-proxy-1", Labels: map[string]string{"app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "proxy"}},
		Spec:       corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})
	server := &eventServer{events: map[string]*eventsv1.Event{}, fails: true}
	leader := func() *incidentEvents {
		return newIncidentEvents(w.objs, w.r.incidents, "weft-system", server, slog.New(slog.DiscardHandler))
	}
	sync := func(e *incidentEvents) (failed error) {
		for i := range w.r.incidents.All(w.st.Snapshot()) {
			failed = errors.Join(failed, e.sync(t.Context(), i.key()))
		}
		return failed
	}
	w.says("a", nodereport.Report{Incidents: []nodereport.Incident{{Kind: nodereport.EnvoyReplaced, Time: 1, Detail: "stop_accepting_requests"}}}.Encode())
	first := leader()
	for range 2 * maxNodeEvents {
		if sync(first) == nil {
			t.Fatal("an Event that cannot be made is not tried again")
		}
	}
	server.fails = false
	for _, e := range []*incidentEvents{first, first, leader()} {
		if err := sync(e); err != nil {
			t.Fatal(err)
		}
	}
	var about []string
	for name, e := range server.events {
		about = append(about, e.Namespace+" "+e.Regarding.Kind+" "+e.Regarding.Name+" "+e.Reason)
		if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 || !strings.Contains(e.Note, "stop_accepting_requests") {
			t.Errorf("%v: %+v", bad, e)
		}
	}
	slices.Sort(about)
	if want := []string{"default Node a EnvoyReplaced", "weft-system Pod weft-proxy-1 EnvoyReplaced"}; !slices.Equal(about, want) {
		t.Errorf("Events are %q, want %q", about, want)
	}

	for batch := range 5 {
		var r nodereport.Report
		for i := range 16 {
			r.Incidents = append(r.Incidents, nodereport.Incident{Kind: nodereport.TunnelDied, Time: int64(100*batch + i)})
		}
		w.pass(reportPause)
		w.says("a", r.Encode())
		if err := sync(first); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(server.events); n > 2*maxNodeEvents {
		t.Errorf("a node made %d Events", n)
	}
	w.pass(reportPause)
	w.says("a", "")
	for key := range first.said {
		if err := first.sync(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.said) != 0 {
		t.Errorf("%d incidents are remembered that nobody reports", len(first.said))
	}
}

// TestReportsFollowTheirNode: a node reports of itself, whatever name it writes, and its rows are found by their objects.
func TestReportsFollowTheirNode(t *testing.T) {
	w := newReportWorld(t, "a")
	ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "ns", Name: "r"}
	text := nodereport.Report{Refused: []*model.Rejection{{
		Node: "b", Resource: "RouteConfiguration/x", Message: "no", Objects: []model.ObjectVersion{{ObjectRef: ref, Generation: 3}},
	}}}.Encode()
	w.says("a", text)
	var got []string
	for r := range w.st.Rejections.By(w.st.Snapshot(), state.ByObject, ref.String()) {
		got = append(got, fmt.Sprint(r.Node, " ", r.Objects[0].Generation))
	}
	if !slices.Equal(got, []string{"a 3"}) {
		t.Errorf("a report of node a says %q", got)
	}
}
