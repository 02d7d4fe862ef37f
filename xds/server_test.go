package xds

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// l7 is a service with an L7 port 80 and an endpoint.
func l7(w *world, i int) {
	name := fmt.Sprintf("s%d", i)
	put(w, w.st.Services, &model.Service{
		Namespace: "shop", Name: name, Addresses: []netip.Addr{serviceAddress(i)},
		Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}},
	})
	endpoints(w, name, "10.1.0.1:8080")
}

func endpoints(w *world, name string, at ...string) {
	e := &model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP}
	for _, a := range at {
		e.Backends = append(e.Backends, model.Endpoint{Address: netip.MustParseAddrPort(a)})
	}
	put(w, w.st.Endpoints, e)
}

func serviceAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }

func split(w *world, name string, a, b uint32) {
	put(w, w.st.RouteTables, &model.RouteTable{
		Name: model.ServiceTable("shop", name, 80),
		VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Route:    model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: name},
			Backends: []model.Backend{to("s1", a), to("s2", b)},
		}}}},
	})
}

// held counts the resources that the cache holds.
func (w *world) held() (n int, readers int) {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	for _, s := range w.server.cache.stores {
		n += len(s.resources)
	}
	return n, len(w.server.cache.deps.Dirty(w.allKeys()))
}

func (w *world) allKeys() map[state.Key]struct{} {
	keys := map[state.Key]struct{}{}
	for _, t := range []state.TableID{w.st.Services.ID(), w.st.Endpoints.ID(), w.st.RouteTables.ID()} {
		for i := range 4 {
			name := fmt.Sprintf("shop/s%d", i)
			for _, v := range []string{name, name + "/80", "service/" + name + "/80"} {
				keys[state.Key{Table: t, Value: v}] = struct{}{}
			}
		}
	}
	return keys
}

func TestOnDemand(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 4 {
		l7(w, i)
	}
	c := w.client()
	c.subscribe(TypeRoute, "service/shop/s1/80")
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"service/shop/s1/80"}) {
		t.Fatal(resourceNames(r))
	}
	c.subscribe(TypeCluster) // wildcard
	if r := c.next(); !slices.Equal(resourceNames(r), []string{clusterOriginate, clusterIdentities, clusterInbound, clusterConnect, clusterInboundHTTP, clusterMirror, clusterBytes, clusterTunnel}) {
		t.Fatal(resourceNames(r))
	}
	c.subscribe(TypeCluster, "service/shop/s1/80", "service/shop/s1/80|plain", "nonsense", "tcp|10.9.9.9")
	r := c.next()
	if !slices.Equal(resourceNames(r), []string{"service/shop/s1/80", "service/shop/s1/80|plain"}) ||
		!slices.Equal(r.RemovedResources, []string{"nonsense", "tcp|10.9.9.9"}) {
		t.Fatal(resourceNames(r), r.RemovedResources)
	}
	c.subscribe(TypeEndpoint, "service/shop/s1/80", "service/gone/gone/80")
	if r := c.next(); len(r.Resources) != 2 {
		t.Fatal("endpoints are served for every service name: ", resourceNames(r), r.RemovedResources)
	}

	// What was not there appears.
	put(w, w.st.Workloads, &model.Workload{Namespace: "shop", Name: "p", Identity: identity("shop", "p"), Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9")}})
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"tcp|10.9.9.9"}) {
		t.Fatal(resourceNames(r))
	}
	// A change of one route table is one resource; one that changes nothing in it, none.
	split(w, "s1", 1, 1)
	if r := c.next(); r.TypeUrl != TypeRoute || len(r.Resources) != 1 {
		t.Fatal(r.TypeUrl, resourceNames(r))
	}
	split(w, "s3", 1, 1)
	endpoints(w, "s2", "10.1.0.2:8080")
	c.quiet()
	endpoints(w, "s1", "10.1.0.2:8080")
	if r := c.next(); r.TypeUrl != TypeEndpoint || len(r.Resources) != 1 {
		t.Fatal(r.TypeUrl, resourceNames(r))
	}
	// A removed table is served, so that Envoy does not keep the last one.
	remove(w, w.st.RouteTables, "service/shop/s1/80")
	if r := c.next(); r.TypeUrl != TypeRoute || len(r.Resources) != 1 {
		t.Fatal(r.TypeUrl, resourceNames(r), r.RemovedResources)
	}
	c.quiet()
	if n, _ := w.held(); n == 0 {
		t.Fatal("nothing is held")
	}
	c.close()
	until(t, "everything is forgotten", func() error {
		if n, readers := w.held(); n != 0 || readers != 0 {
			return fmt.Errorf("%d resources and %d readers are left", n, readers)
		}
		return nil
	})
}

// caller is a local workload that listens nowhere.
func caller(w *world, name string, id model.Identity) {
	put(w, w.st.Workloads, &model.Workload{Namespace: "shop", Name: name, Local: true, Identity: id})
}

func TestWildcards(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 3 {
		l7(w, i)
	}
	caller(w, "with", identity("shop", "with"))
	c := w.client()
	c.subscribe(TypeScope)
	if r := c.next(); len(r.Resources) != 4 { // one of them is scopeWaiting
		t.Fatal(resourceNames(r))
	}
	caller(w, "plain", "") // the first caller without an identity brings the other variant
	if r := c.next(); len(r.Resources) != 3 || resourceNames(r)[0] != "10.96.0.0:80|plain" {
		t.Fatal(resourceNames(r))
	}
	l7(w, 3)
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"10.96.0.3:80", "10.96.0.3:80|plain"}) {
		t.Fatal(resourceNames(r))
	}
	remove(w, w.st.Services, "shop/s3")
	if r := c.next(); !slices.Equal(r.RemovedResources, []string{"10.96.0.3:80", "10.96.0.3:80|plain"}) {
		t.Fatal(resourceNames(r), r.RemovedResources)
	}
	remove(w, w.st.Workloads, "shop/plain")
	c.quiet() // the variant is kept
	c.subscribe(TypeListener)
	if r := c.next(); !slices.Equal(resourceNames(r), []string{listenerOriginate, listenerMirror, listenerRefused, trialName, listenerTunnel}) {
		t.Fatal(resourceNames(r))
	}
	pod := &model.Workload{
		Namespace: "shop", Name: "p", Identity: identity("shop", "p"), Local: true, NetNS: "/run/netns/p",
		Addresses: []netip.Addr{netip.MustParseAddr("10.9.9.9")},
	}
	put(w, w.st.Workloads, pod)
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"shop/p/hbone", "shop/p/out-http", "shop/p/out-tcp"}) {
		t.Fatal(resourceNames(r))
	}
	guarded := *pod
	guarded.Policy = &model.Policy{}
	put(w, w.st.Workloads, &guarded)
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"shop/p/in"}) { // the policy itself is a filter of its own
		t.Fatal(resourceNames(r))
	}
	remove(w, w.st.Workloads, "shop/p")
	if r := c.next(); len(r.RemovedResources) != 4 {
		t.Fatal(r.RemovedResources)
	}
	c.quiet()
}

// An agent that restarts sends an Envoy what differs from what it has, and nothing else.
func TestRestartWithSameVersions(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 3 {
		l7(w, i)
	}
	caller(w, "a", identity("shop", "a"))
	c := w.client()
	c.subscribe(TypeScope)
	c.next()
	c.subscribe(TypeRoute, "service/shop/s1/80", "service/shop/s2/80")
	c.next()
	c.close()

	again := newWorld(t, Config{})
	caller(again, "a", identity("shop", "a"))
	for i := range 2 {
		l7(again, i)
	}
	split(again, "s2", 1, 1)
	d := again.client()
	d.have = c.have
	d.subscribe(TypeScope)
	if r := d.next(); len(r.Resources) != 0 || !slices.Equal(r.RemovedResources, []string{"10.96.0.2:80"}) {
		t.Error(resourceNames(r), r.RemovedResources)
	}
	d.subscribe(TypeRoute, "service/shop/s1/80", "service/shop/s2/80")
	if r := d.next(); !slices.Equal(resourceNames(r), []string{"service/shop/s2/80"}) {
		t.Error(resourceNames(r), r.RemovedResources)
	}
	d.quiet()
}

func TestTwoClients(t *testing.T) {
	w := newWorld(t, Config{})
	l7(w, 1)
	a, b := w.client(), w.client()
	for _, c := range []*client{a, b} {
		c.subscribe(TypeRoute, "service/shop/s1/80")
		c.next()
		c.quiet()
	}
	a.close()
	split(w, "s1", 1, 2)
	if r := b.next(); len(r.Resources) != 1 {
		t.Fatal(resourceNames(r))
	}
}

// Asking again for a name that one has is answered, as the protocol wants it.
func TestAskAgain(t *testing.T) {
	w := newWorld(t, Config{})
	c := w.client()
	for range 2 {
		c.subscribe(TypeRoute, "service/shop/s1/80")
		if r := c.next(); len(r.Resources) != 1 {
			t.Fatal(resourceNames(r))
		}
		c.subscribe(TypeSecret, "none")
		if r := c.next(); len(r.RemovedResources) != 1 {
			t.Fatal(r.RemovedResources)
		}
	}
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"service/shop/s1/80"}})
	c.quiet() // it has been taken in
	split(w, "s1", 1, 1)
	c.subscribe(TypeSecret, "again")
	if r := c.next(); r.TypeUrl != TypeSecret {
		t.Errorf("sent though unsubscribed: %v", resourceNames(r))
	}
}

// One bad resource is found, reported against its objects, and the others are in place.
func TestRefusedResourceStandsAlone(t *testing.T) {
	w := newWorld(t, Config{})
	var names []string
	for i := range 9 {
		split(w, fmt.Sprintf("s%d", i), 1, 1)
		names = append(names, fmt.Sprintf("service/shop/s%d/80", i))
	}
	c := w.client()
	bad := []string{"service/shop/s3/80", "service/shop/s4/80"}
	c.refuse = func(r *discovery.DeltaDiscoveryResponse) string {
		for _, n := range resourceNames(r) {
			if slices.Contains(bad, n) {
				return "I do not like " + n
			}
		}
		return ""
	}
	c.subscribe(TypeRoute, names...)
	for range 100 {
		c.next()
		if len(c.names(TypeRoute)) == 7 && slices.Equal(w.rejections(), []string{"RouteConfiguration/" + bad[0], "RouteConfiguration/" + bad[1]}) {
			break
		}
	}
	until(t, "rejections", func() error {
		if got := w.rejections(); len(got) != 2 || len(c.names(TypeRoute)) != 7 {
			return fmt.Errorf("%v, accepted %v", got, c.names(TypeRoute))
		}
		return nil
	})
	c.quiet() // it is not sent again and again
	r, _ := w.st.Rejections.Get(w.st.Snapshot(), "RouteConfiguration/"+bad[0])
	if !slices.Contains(r.Objects, model.ObjectVersion{ObjectRef: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "s3"}}) || !strings.Contains(r.Message, bad[0]) {
		t.Errorf("%+v", r)
	}
	if w.accepted(TypeRoute, bad[0]) || !w.accepted(TypeRoute, names[0]) {
		t.Error("accepted is wrong")
	}
	bad = nil
	split(w, "s3", 1, 2)
	c.next()
	until(t, "the rejection is gone", func() error {
		if got := w.rejections(); len(got) != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// A refusal is of the generation that was built. An object that changes without changing the refused resource is refused
// at its new generation, though Envoy is not asked again.
func TestRefusalHasTheGeneration(t *testing.T) {
	w := newWorld(t, Config{})
	const name = "service/shop/s1/80"
	ref := model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}
	route := func(generation int64, status int) {
		put(w, w.st.RouteTables, &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{
			Hosts: []string{"*"}, Rules: []model.Rule{{Route: ref, Generation: generation, Status: status}},
		}}})
	}
	refused := func(generation int64) {
		t.Helper()
		until(t, fmt.Sprint("refused at generation ", generation), func() error {
			w.reported()
			r, ok := w.st.Rejections.Get(w.st.Snapshot(), "RouteConfiguration/"+name)
			if !ok || !slices.Contains(r.Objects, model.ObjectVersion{ObjectRef: ref, Generation: generation}) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	route(1, 200)
	c := w.client()
	c.refuse = func(*discovery.DeltaDiscoveryResponse) string { return "no" }
	c.subscribe(TypeRoute, name)
	c.next()
	refused(1)
	route(2, 200)
	c.quiet()
	refused(2)
	route(3, 201)
	c.next()
	refused(3)
}

// rejections returns the keys of the table's rows, when all that is known is written.
func (w *world) rejections() []string {
	w.t.Helper()
	w.reported()
	var keys []string
	for r := range w.st.Rejections.All(w.st.Snapshot()) {
		keys = append(keys, r.Key())
	}
	return keys
}

// What breaks the rules of Envoy's protos is not sent at all; the last good version is kept.
func TestInvalidModel(t *testing.T) {
	w := newWorld(t, Config{})
	rule := func(name string) {
		put(w, w.st.RouteTables, &model.RouteTable{Name: "service/shop/s1/80", VirtualHosts: []model.VirtualHost{{
			Hosts: []string{"*"}, Rules: []model.Rule{{Route: serviceRef("shop", "r").ObjectRef, Match: model.Match{Headers: []model.ValueMatch{{Name: name, Value: "x"}}}, Status: 200}},
		}}})
	}
	rule("a\nb")
	c := w.client()
	c.subscribe(TypeRoute, "service/shop/s1/80")
	if r := c.next(); len(r.Resources) != 1 {
		t.Fatal("an empty table stands in: ", resourceNames(r))
	}
	c.quiet()
	if got := w.rejections(); len(got) != 1 {
		t.Fatal(got)
	}
	rule("good")
	c.next()
	c.quiet()
	if got := w.rejections(); len(got) != 0 {
		t.Fatal(got)
	}
	rule("a\nb")
	c.quiet()
}

func TestNothingBeforeSynced(t *testing.T) {
	w := newWorld(t, Config{})
	st := state.New(state.NewDB())
	s := New(st, Config{Node: "n1", TrustDomain: testDomain})
	l, err := net.Listen("unix", filepath.Join(w.dir, "other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	c := (&world{t: t, st: st, server: s}).clientAt(l.Addr().String())
	c.subscribe(TypeListener)
	select {
	case r := <-c.got:
		t.Errorf("answered before the tables were full: %v", resourceNames(r))
	case <-time.After(100 * time.Millisecond): // passes if nothing comes; a slow machine cannot fail it
	}
	st.MarkSynced()
	if r := c.next(); len(r.Resources) != 5 {
		t.Error(resourceNames(r))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A port that is no longer L7 keeps its scope, and a table that leads to the Service: Envoy still has connections to it.
func TestScopeIsRetained(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Workloads, &model.Workload{Namespace: "shop", Name: "a", Local: true, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	service := func(l7 bool, ports ...uint16) *model.Service {
		s := &model.Service{Namespace: "shop", Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
		for _, p := range ports {
			s.Ports = append(s.Ports, model.ServicePort{Port: p, Protocol: model.TCP, L7: l7})
		}
		return s
	}
	put(w, w.st.Services, service(true, 80, 81))
	c := w.client()
	c.subscribe(TypeScope)
	c.answer(c.next())
	want := []string{"10.96.0.1:80|plain", "10.96.0.1:81|plain", scopeWaiting}
	if got := c.names(TypeScope); !slices.Equal(got, want) {
		t.Fatalf("scopes %q, want %q", got, want)
	}
	until(t, "the scope is accepted", func() error {
		return w.upToDate(model.Subject{Kind: model.SubjectService, Name: "shop/web"})
	})
	put(w, w.st.Services, service(false, 80))
	c.answer(c.next())
	if got := c.names(TypeScope); !slices.Equal(got, []string{want[0], scopeWaiting}) {
		t.Errorf("scopes %q, want that of the port that is left", got)
	}
	m, ok := w.server.Build(TypeRoute, "service/shop/web/80|plain")
	if !ok || len(m.(*routev3.RouteConfiguration).VirtualHosts) != 1 {
		t.Errorf("table of a port without routes: %v", m)
	}
	remove(w, w.st.Services, "shop/web")
	c.answer(c.next())
	if got := c.names(TypeScope); !slices.Equal(got, []string{scopeWaiting}) {
		t.Errorf("scopes %q of no Service", got)
	}
}

// A node whose last pod with an identity loses it keeps the scopes of such callers, for the connections that they have.
func TestScopesOutliveTheLastCaller(t *testing.T) {
	w := newWorld(t, Config{})
	caller := func(mode model.MTLSMode) *model.Workload {
		c := &model.Workload{Namespace: "shop", Name: "a", ServiceAccount: "a", MTLS: mode, Local: true, NetNS: "/proc/self/ns/net",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
		if mode != model.MTLSDisabled {
			c.Identity = identity("shop", "a")
		}
		return c
	}
	put(w, w.st.Workloads, caller(model.MTLSPermissive))
	put(w, w.st.Services, &model.Service{
		Namespace: "shop", Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}},
	})
	c := w.client()
	c.subscribe(TypeScope)
	c.next()
	for _, mode := range []model.MTLSMode{model.MTLSDisabled, model.MTLSPermissive, model.MTLSDisabled} {
		put(w, w.st.Workloads, caller(mode))
		if len(c.names(TypeScope)) == 2 {
			c.next()
		}
		if got, want := c.names(TypeScope), []string{"10.96.0.1:80", "10.96.0.1:80|plain", scopeWaiting}; !slices.Equal(got, want) {
			t.Errorf("%s: scopes %q, want %q", mode, got, want)
		}
	}
	c.quiet()
}

// readsRequests returns a local workload whose policy looks at requests.
func readsRequests() *model.Workload {
	return &model.Workload{
		Namespace: "shop", Name: "a", ServiceAccount: "a", MTLS: model.MTLSPermissive, Identity: identity("shop", "a"),
		Local: true, NetNS: "/proc/self/ns/net", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Policy: &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}}},
	}
}

// The listeners of a workload with an identity stay as they are while the workload is disabled, but not without the workload.
func TestListenersOutliveAnIdentity(t *testing.T) {
	w := newWorld(t, Config{})
	p := readsRequests()
	put(w, w.st.Workloads, p)
	c := w.client()
	c.subscribe(TypeListener)
	c.next()
	before := maps.Clone(c.have[TypeListener])
	c.subscribe(TypeFilter, workloadName(p, outHTTP))
	c.next()
	disabled := *p
	disabled.MTLS, disabled.Identity = model.MTLSDisabled, ""
	put(w, w.st.Workloads, &disabled)
	if r := c.next(); r.TypeUrl != TypeFilter {
		t.Errorf("%s changed", r.TypeUrl)
	}
	c.quiet()
	for _, suffix := range []string{outHTTP, outTCP, inHBONE, inHTTP} {
		if name := workloadName(p, suffix); before[name] == "" {
			t.Errorf("there was no listener %s", name)
		}
	}
	if _, ok := w.server.Build(TypeCluster, workloadName(p, inHTTP)); !ok {
		t.Error("the cluster of the internal listener has gone")
	}
	conflict := *p // still in the mesh, with an unknown identity
	conflict.Identity = ""
	put(w, w.st.Workloads, &conflict)
	c.next()
	if got := c.names(TypeListener); slices.Contains(got, workloadName(p, inHBONE)) {
		t.Errorf("listeners %q of a workload that lost its identity otherwise", got)
	}
}

// Tunnels from the time when a policy looked at requests have the cluster's name in their routes until they are drained. It
// leads to the application then, and goes with the workload.
func TestClusterOfRequestsOutlivesThePolicy(t *testing.T) {
	w := newWorld(t, Config{})
	p := readsRequests()
	put(w, w.st.Workloads, p)
	c := w.client()
	c.subscribe(TypeCluster)
	c.next()
	name := workloadName(p, inHTTP)
	before := c.have[TypeCluster][name]
	if before == "" {
		t.Fatalf("clusters %q", c.names(TypeCluster))
	}
	bytes := *p
	bytes.Policy = &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{}}}
	put(w, w.st.Workloads, &bytes)
	c.next()
	if after := c.have[TypeCluster][name]; after == "" || after == before {
		t.Errorf("version %q, was %q", after, before)
	}
	m, _ := w.server.Build(TypeCluster, name)
	if got, _ := m.(*cluster.Cluster); got.GetType() != cluster.Cluster_ORIGINAL_DST || !got.GetOriginalDstLbConfig().GetUseHttpHeader() {
		t.Errorf("it leads elsewhere: %v", m)
	}
	remove(w, w.st.Workloads, p.Key())
	c.next()
	if got := c.names(TypeCluster); slices.Contains(got, name) {
		t.Errorf("clusters %q without the workload", got)
	}
}
