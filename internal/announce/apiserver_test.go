//go:build cluster

package announce

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	kubecluster "github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/test/cluster"
)

// world is a real API server.
type world struct {
	*testing.T
	api    *cluster.API
	cfg    *rest.Config
	client *kubernetes.Clientset
}

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // it may have to be built
	defer cancel()
	api, err := cluster.APIServer(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	cfg, err := kubecluster.Config(api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, api, cfg, kubernetes.NewForConfigOrDie(cfg)}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: defaultNamespace}}
	if _, err := w.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// agent is a node's part in the election.
type agent struct {
	w     *world
	name  string
	st    *state.State
	ready atomic.Bool
	takes atomic.Pointer[[]model.Transport]
	e     *Elector
	stop  func()
}

func (w *world) agent(name string) *agent {
	a := &agent{w: w, name: name, stop: func() {}}
	a.ready.Store(true)
	a.start()
	w.Cleanup(func() { a.stop() })
	return a
}

func (a *agent) start() {
	a.st = state.New(state.NewDB())
	a.gateway("10.89.1.1", "10.89.1.2", "10.89.1.3", "10.89.1.4", "fd00::1", "fd00::2")
	a.st.MarkSynced()
	w := a.st.Write(a.st.HostAddresses)
	a.st.HostAddresses.Put(w, &model.HostAddress{Link: 2, Prefix: netip.MustParsePrefix("10.89.0.9/16"), Neighbours: true})
	w.Commit()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	a.e = New(a.st, Config{
		Kube: a.w.cfg, Node: a.name, Ready: a.ready.Load, Accepts: a.accepts, Log: slog.New(slog.NewTextHandler(writer{a.w.T, a.name}, nil)),
	})
	go func() { done <- a.e.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			a.w.Errorf("%s: %v", a.name, err)
		}
		a.stop = func() {}
	}
}

func (a *agent) accepts() []model.Transport {
	if t := a.takes.Load(); t != nil {
		return *t
	}
	return nil
}

type writer struct {
	t    *testing.T
	name string
}

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(w.name, strings.TrimSpace(string(b)))
	return len(b), nil
}

func (a *agent) gateway(addrs ...string) {
	w := a.st.Write(a.st.Gateways)
	g := &model.Gateway{Namespace: "ns", Name: "gw"}
	for _, text := range addrs {
		g.Addresses = append(g.Addresses, netip.MustParseAddr(text))
	}
	a.st.Gateways.Put(w, g)
	w.Commit()
}

// table gives who answers for what, as the node knows it.
func (a *agent) table() map[string]string {
	out := map[string]string{}
	for e := range a.st.Announcements.All(a.st.Snapshot()) {
		out[e.Address.String()] = e.Node
		if e.Here != (e.Node == a.name) {
			a.w.Errorf("%s: %+v", a.name, e)
		}
	}
	return out
}

// agreed gives the table when all nodes have the same, and each address is with one of some nodes.
func (w *world) agreed(addrs int, among string, agents ...*agent) map[string]string {
	w.Helper()
	began := time.Now()
	for time.Since(began) < 30*time.Second {
		first, same := agents[0].table(), true
		for _, a := range agents[1:] {
			other := a.table()
			for addr, n := range first {
				same = same && other[addr] == n
			}
			same = same && len(other) == len(first)
		}
		for _, n := range first {
			same = same && strings.Contains(among, n)
		}
		if same && len(first) == addrs {
			w.Logf("agreed after %s: %v", time.Since(began).Round(10*time.Millisecond), first)
			return first
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.Fatalf("no agreement within 30 s: %v, %v", agents[0].table(), agents[len(agents)-1].table())
	return nil
}

// steady checks that for a time no address moves.
func (w *world) steady(what string, d time.Duration, want map[string]string, agents ...*agent) {
	w.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, a := range agents {
			got := a.table()
			for addr, n := range want {
				if got[addr] != n {
					w.Fatalf("%s: %s knows %s at %q, it was at %q", what, a.name, addr, got[addr], n)
				}
			}
		}
	}
}

func TestElection(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.agent("a"), w.agent("b"), w.agent("c")
	first := w.agreed(6, "abc", a, b, c)

	began := time.Now()
	b.stop()
	second := w.agreed(6, "ac", a, c)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the addresses of a dead node were taken over after %s", took)
	}
	for addr, n := range first {
		if n != "b" && second[addr] != n {
			t.Errorf("%s moved from %s to %s when b died", addr, n, second[addr])
		}
	}

	b.start()
	w.agreed(6, "ac", a, b, c)
	w.steady("a node that comes back", 3*time.Second, second, a, b, c)

	began = time.Now()
	c.ready.Store(false)
	third := w.agreed(6, "ab", a, b, c)
	t.Logf("without Envoy, after %s: %v", time.Since(began), third)
}

func TestAgentRestarts(t *testing.T) {
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	first := w.agreed(6, "ab", a, b)
	for _, n := range []*agent{a, b} {
		n.stop()
		time.Sleep(3 * time.Second)
		n.start()
		w.agreed(6, "ab", a, b)
	}
	w.steady("restarts", 7*time.Second, first, a, b)
}

func TestOutageMovesNothing(t *testing.T) {
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	first := w.agreed(6, "ab", a, b)
	w.api.StopServing()
	w.steady("outage", 15*time.Second, first, a, b)
	b.gateway("10.89.1.1") // a Gateway may still go
	if err := w.api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.gateway("10.89.1.1", "10.89.1.2", "10.89.1.3", "10.89.1.4", "fd00::1", "fd00::2")
	time.Sleep(time.Second)
	w.agreed(6, "ab", a, b)
	w.steady("after the outage", 10*time.Second, first, a)
	a.stop()
	w.agreed(6, "b", b)
}

// What a node takes is known to all nodes and to an agent that starts, holds while no agent runs, and ends when the node
// takes it back or an older agent renews the Lease.
func TestNodesSayTransports(t *testing.T) {
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	knows := func(st *state.State, node string) bool {
		return st.NodeAccepts(st.Snapshot(), node, model.TransportHTTP)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within 30 s: %s", what)
			}
		}
	}
	w.agreed(6, "ab", a, b)
	if knows(a.st, "b") || knows(b.st, "b") {
		t.Error("a node says what it does not know yet")
	}
	both := []model.Transport{model.TransportHBONE, model.TransportHTTP}
	b.takes.Store(&both)
	until("both nodes know what b takes", func() bool { return knows(a.st, "b") && knows(b.st, "b") })

	b.takes.Store(nil)
	b.stop()
	next := New(state.New(state.NewDB()), Config{Kube: w.cfg, Node: "b"})
	if err := next.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !knows(next.st, "b") {
		t.Error("an agent that starts does not know what the one before it said")
	}
	b.start()
	w.agreed(6, "ab", a, b)
	w.steady("the next agent goes on with it", 3*time.Second, nil)
	if !knows(a.st, "b") || !knows(b.st, "b") {
		t.Error("the next agent of the node does not go on saying what the one before it said")
	}

	if err := b.e.Withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if knows(a.st, "b") {
		t.Error("another node does not know that it was taken back")
	}
	b.stop()
	b.takes.Store(&both)
	b.start()
	until("b says it again", func() bool { return knows(a.st, "b") })
	b.stop()
	leases := w.client.CoordinationV1().Leases(defaultNamespace)
	l, err := leases.Get(t.Context(), leasePrefix+"b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()} // as an agent does that does not know of transports
	if _, err := leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("an older agent renewed the Lease, and b takes HBONE only", func() bool { return !knows(a.st, "b") })
}
