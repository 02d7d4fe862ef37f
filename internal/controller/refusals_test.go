package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weft-mesh/weft/internal/observe"
)

// PatchEvent implements eventWriter.
func (s *eventServer) PatchEvent(_ context.Context, _, name string, patch []byte) (*eventsv1.Event, error) {
	e := s.events[name]
	switch {
	case s.fails:
		return nil, errors.New("no server")
	case e == nil:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, name)
	}
	changed := *e
	if err := json.Unmarshal(patch, &changed); err != nil {
		return nil, err
	}
	s.events[name] = &changed
	return &changed, nil
}

// refusalWorld has the pods shop/app, which runs on node a, and store/web, on node b.
type refusalWorld struct {
	*reportWorld
	server *eventServer
	leader *refusalEvents
}

func newRefusalWorld(t *testing.T) *refusalWorld {
	w := &refusalWorld{reportWorld: newReportWorld(t, "a", "b"), server: &eventServer{events: map[string]*eventsv1.Event{}}}
	w.pod("shop", "app", "a")
	w.pod("store", "web", "b")
	w.elect()
	return w
}

func (w *refusalWorld) pod(namespace, name, node string) {
	w.put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name)},
		Spec:       corev1.PodSpec{NodeName: node},
	})
}

// elect makes another leader.
func (w *refusalWorld) elect() {
	w.leader = newRefusalEvents(w.objs, w.server, slog.New(slog.DiscardHandler))
	w.leader.now = func() time.Time { return w.now }
}

// flush passes a time in which everything that waits is written.
func (w *refusalWorld) flush() {
	w.now = w.now.Add(refusalRecount)
	w.leader.flush(w.Context())
}

// events returns those that were made: namespace, pod, count and text.
func (w *refusalWorld) events() []string {
	var out []string
	for name, e := range w.server.events {
		count := int32(1)
		if e.Series != nil {
			count = e.Series.Count
		}
		out = append(out, fmt.Sprintf("%s/%s %d %s", e.Namespace, e.Regarding.Name, count, e.Note))
		if bad := validation.IsDNS1123Subdomain(name); len(bad) > 0 || e.Reason != "Refused" || e.Regarding.Kind != "Pod" || e.Regarding.UID == "" {
			w.Errorf("%v: %+v", bad, e)
		}
	}
	slices.Sort(out)
	return out
}

func (w *refusalWorld) wantEvents(what string, want ...string) {
	w.Helper()
	if got := w.events(); !slices.Equal(got, want) {
		w.Errorf("%s: Events\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// refusedFlow is one from shop/app to store/web.
func refusedFlow(side observe.Side, port uint16) *observe.Flow {
	return &observe.Flow{
		Verdict: observe.Refused, SeenAt: side, Reason: "plaintext to a strict workload",
		Source:      observe.Peer{Address: netip.MustParseAddrPort("10.0.0.1:40000"), Workload: "shop/app"},
		Destination: observe.Peer{Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port), Workload: "store/web", Service: "store/web"},
	}
}

// TestRefusalsBecomeEvents: a scan of all ports is one Event with a count, of which another leader goes on.
func TestRefusalsBecomeEvents(t *testing.T) {
	w := newRefusalWorld(t)
	scan := func() {
		for port := 1; port < 1<<16; port++ {
			w.leader.observe("b", refusedFlow(observe.AtDestination, uint16(port)))
		}
	}
	const text = "The mesh refuses connections to this pod: plaintext to a strict workload. The first was to port 1, from namespace shop."
	w.server.fails = true
	scan()
	w.flush()
	w.wantEvents("no API server")
	w.server.fails = false
	w.flush()
	w.wantEvents("a scan", "store/web 65535 "+text)
	w.flush()
	w.wantEvents("nothing new", "store/web 65535 "+text)
	for range 2 {
		w.leader.observe("b", refusedFlow(observe.AtDestination, 80))
		w.leader.flush(t.Context())
		w.wantEvents("counts wait for a minute", "store/web 65536 "+text)
	}
	w.flush()
	w.wantEvents("one more", "store/web 65537 "+text)
	w.elect()
	scan()
	w.flush()
	w.wantEvents("another leader", "store/web 131072 "+text)
	clear(w.server.events)
	w.leader.observe("b", refusedFlow(observe.AtDestination, 80))
	w.flush() // finds that it is gone
	w.flush()
	w.wantEvents("the API server forgot it", "store/web 1 "+text)
	w.now = w.now.Add(refusalsKept)
	w.flush()
	if len(w.leader.seen) != 0 {
		t.Errorf("%d refusals are remembered after an hour", len(w.leader.seen))
	}
}

// TestRefusalsShowWhatMayBeSeen: who reads the Events of a namespace may have no right to see flows.
func TestRefusalsShowWhatMayBeSeen(t *testing.T) {
	w := newRefusalWorld(t)
	denied := refusedFlow(observe.AtDestination, 80)
	denied.Reason, denied.Policies = "no policy allows it", []string{"store/a", "store/b"}
	w.leader.observe("b", denied)
	there := refusedFlow(observe.AtSource, 80)
	there.Reason, there.Policies = "no policy of the destination allows it", denied.Policies
	w.leader.observe("a", there)
	stranger := refusedFlow(observe.AtDestination, 81)
	stranger.Source, stranger.Reason = observe.Peer{Address: netip.MustParseAddrPort("192.0.2.7:5")}, "x\n\x1b[31m"+strings.Repeat("é", 2000)
	w.leader.observe("b", stranger)
	w.flush()
	long := "x ?[31m" + strings.Repeat("é", 252) + " ..."
	w.wantEvents("each end",
		"shop/app 1 The mesh refuses connections of this pod: no policy of the destination allows it. The first was to Service store/web, port 80.",
		"store/web 1 The mesh refuses connections to this pod: no policy allows it: store/a, store/b. The first was to port 80, from namespace shop.",
		"store/web 1 The mesh refuses connections to this pod: "+long+". The first was to port 81, from address 192.0.2.7.",
	)
	w = newRefusalWorld(t)
	inside := refusedFlow(observe.AtDestination, 80)
	inside.Source.Workload = "store/other"
	w.leader.observe("b", inside)
	direct := refusedFlow(observe.AtSource, 80)
	direct.Destination.Service, direct.Source.Workload = "", "shop/app"
	w.leader.observe("a", direct)
	w.flush()
	w.wantEvents("pods of the namespace are named, others are not",
		"shop/app 1 The mesh refuses connections of this pod: plaintext to a strict workload. The first was to address 10.0.0.2:80.",
		"store/web 1 The mesh refuses connections to this pod: plaintext to a strict workload. The first was to port 80, from pod store/other.",
	)
}

// TestRefusalsAreBounded: by pod, by namespace and in all; and a node reports of its own pods alone.
func TestRefusalsAreBounded(t *testing.T) {
	w := newRefusalWorld(t)
	w.leader.observe("a", refusedFlow(observe.AtDestination, 80))
	forwarded := refusedFlow(observe.AtDestination, 80)
	forwarded.Verdict = observe.Forwarded
	w.leader.observe("b", forwarded)
	if len(w.leader.seen) != 0 {
		t.Error("a node is believed about another node's pod, or a forwarded flow is taken as refused")
	}
	reasons := func(node string, f *observe.Flow) {
		for i := range 2 * maxRefusalsOfPod {
			f.Reason = fmt.Sprint("reason ", i)
			w.leader.observe(node, f)
		}
	}
	reasons("b", refusedFlow(observe.AtDestination, 80))
	if n := len(w.leader.seen); n != maxRefusalsOfPod {
		t.Errorf("a pod has %d Events, want %d", n, maxRefusalsOfPod)
	}
	for i := range maxRefusals / maxRefusalsOfNamespace * 2 {
		namespace := fmt.Sprint("ns-", i)
		for p := range 2 * maxRefusalsOfNamespace / maxRefusalsOfPod {
			f := refusedFlow(observe.AtDestination, 80)
			f.Destination.Workload = fmt.Sprint(namespace, "/pod-", p)
			w.pod(namespace, fmt.Sprint("pod-", p), "b")
			reasons("b", f)
		}
		if i == 0 && len(w.leader.seen) != maxRefusalsOfPod+maxRefusalsOfNamespace {
			t.Errorf("a namespace has %d Events, want %d", len(w.leader.seen)-maxRefusalsOfPod, maxRefusalsOfNamespace)
		}
	}
	if n := len(w.leader.seen); n != maxRefusals {
		t.Errorf("%d Events, want %d", n, maxRefusals)
	}
	w.flush()
	if n := len(w.server.events); n != refusalWrites {
		t.Errorf("%d Events at once, want %d", n, refusalWrites)
	}
	for range maxRefusals / refusalWrites {
		w.leader.flush(t.Context())
	}
	if n := len(w.server.events); n != maxRefusals {
		t.Errorf("%d Events in the end, want %d", n, maxRefusals)
	}
}

// TestRefusalsOfPodsThatAreReplaced: a namespace whose pods are replaced all the time has Events of those that there are.
func TestRefusalsOfPodsThatAreReplaced(t *testing.T) {
	w := newRefusalWorld(t)
	for i := range 2 * maxRefusalsOfNamespace {
		w.pod("store", "web", "b")
		pod, _ := w.objs.Pods.Get(w.objs.DB.Snapshot(), "store/web")
		next := pod.DeepCopy()
		next.UID = types.UID(fmt.Sprint("uid-", i))
		w.put(next)
		w.leader.observe("b", refusedFlow(observe.AtDestination, 80))
		w.flush()
		if n := len(w.leader.seen); n != 1 {
			t.Fatalf("pod %d: %d refusals are remembered", i, n)
		}
	}
	if n := len(w.server.events); n != 2*maxRefusalsOfNamespace {
		t.Errorf("%d Events", n)
	}
}

// TestEventsOfLongNames: an Event of a pod with the longest name has a name that the API takes.
func TestEventsOfLongNames(t *testing.T) {
	for _, end := range []string{"-", ".", "a"} {
		name := strings.Repeat("a", 199) + end + strings.Repeat("c", 53)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		ev, err := refusalEvent(pod, refusal{namespace: "shop", pod: name, side: observe.AtDestination}, refusedFlow(observe.AtDestination, 80), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if bad := validation.IsDNS1123Subdomain(ev.Name); len(bad) > 0 {
			t.Errorf("%s: %v", ev.Name, bad)
		}
		if ev, err = warning(pod, failure{reason: "Invalid"}, time.Now()); err != nil || len(validation.IsDNS1123Subdomain(ev.Name)) > 0 {
			t.Errorf("%v: %v", ev, err)
		}
	}
}
