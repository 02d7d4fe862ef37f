package xds

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// foreign is an expression that Go's RE2 takes and Envoy's does not: it knows no long names of classes.
func foreign(n int) model.Match { return path(model.MatchRegex, fmt.Sprintf(`/%d\p{Letter}`, n)) }

// tenant is a rule of a route of its own.
func tenant(namespace, name string, m model.Match, status int) model.Rule {
	return model.Rule{
		Route:      model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: namespace, Name: name},
		Generation: 1, Match: m, Status: status,
	}
}

// tenants are routes r0 to r<n-1>, each of a namespace t<i> and with path /<i>, that answer with a status.
func tenants(n, status int) []model.Rule {
	var rules []model.Rule
	for i := range n {
		rules = append(rules, tenant(fmt.Sprint("t", i), fmt.Sprint("r", i), path(model.MatchExact, fmt.Sprint("/", i)), status))
	}
	return rules
}

// shared is a Gateway that many share.
type shared struct {
	w    *world
	port uint16
}

func newShared(t *testing.T, w *world) *shared { return &shared{w, freePort(t)} }

func (s *shared) table() string { return model.GatewayTable("shop", "gw", s.port, "") }

func (s *shared) serve(rules ...model.Rule) {
	put(s.w, s.w.st.RouteTables, &model.RouteTable{Name: s.table(), VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
	put(s.w, s.w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: s.port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: s.table()}}}},
	})
}

// answers waits for the statuses of paths.
func (s *shared) answers(want map[string]int) {
	s.w.t.Helper()
	until(s.w.t, "the answers", func() error {
		for p, status := range want {
			a, err := trySend(s.port, "GET", "x", p, nil)
			if err != nil {
				return err
			}
			if a.status != status {
				return fmt.Errorf("%s is answered %d, want %d", p, a.status, status)
			}
		}
		return nil
	})
}

// leftOut waits for the routes that are reported, as namespace/name, and for nothing else to be.
func (s *shared) leftOut(routes ...string) {
	s.w.t.Helper()
	var keys []string
	for _, r := range routes {
		keys = append(keys, "RouteConfiguration/"+s.table()+plainSuffix+" for HTTPRoute/"+r)
	}
	s.w.rejectionsAre(keys...)
}

// TestRefusedRouteAlone: what Envoy refuses in one route of a shared Gateway is left out alone, whether it comes while others
// are served or was there before the first table. The others are served, and change.
func TestRefusedRouteAlone(t *testing.T) {
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("from the first table %v", first), func(t *testing.T) {
			w := newWorld(t, Config{})
			s := newShared(t, w)
			bad := tenant("evil", "bad", foreign(0), 200)
			s.serve(tenants(20, 200)...)
			if first {
				s.serve(slices.Insert(tenants(20, 200), 7, bad)...)
			}
			w.envoy()
			s.answers(map[string]int{"/0": 200, "/19": 200})
			s.serve(slices.Insert(tenants(20, 201), 7, bad)...)
			s.answers(map[string]int{"/0": 201, "/19": 201})
			s.leftOut("evil/bad")
			s.serve(slices.Insert(tenants(20, 202), 7, bad)...)
			s.answers(map[string]int{"/0": 202, "/19": 202})
			for r := range w.st.Rejections.All(w.st.Snapshot()) {
				if len(r.Objects) != 1 || r.Objects[0].Name != "bad" || r.Objects[0].Generation != 1 || !strings.Contains(r.Message, "character class") {
					t.Errorf("the rejection is %+v", r)
				}
			}
			w.wantUpToDate(model.Subject{Kind: model.SubjectGateway, Name: "shop/gw"})

			// Another generation with the same rules is not asked about, and reported as it is now.
			bad.Generation = 2
			s.serve(slices.Insert(tenants(20, 203), 7, bad)...)
			s.answers(map[string]int{"/0": 203})
			s.leftOut("evil/bad")
			for r := range w.st.Rejections.All(w.st.Snapshot()) {
				if r.Objects[0].Generation != 2 {
					t.Errorf("the rejection is of generation %d", r.Objects[0].Generation)
				}
			}

			// Mended, it is served.
			s.serve(append(tenants(20, 203), tenant("evil", "bad", path(model.MatchExact, "/mended"), 299))...)
			s.answers(map[string]int{"/0": 203, "/mended": 299})
			s.leftOut()
		})
	}
}

// TestRefusedRoutesOfMany: several are found, of which namespaces whatever, and each ends with its route.
func TestRefusedRoutesOfMany(t *testing.T) {
	w := newWorld(t, Config{})
	s := newShared(t, w)
	rules := tenants(50, 200)
	for i, n := range []int{3, 17, 18, 49} {
		rules = append(rules, tenant(fmt.Sprint("t", n), "bad", foreign(i), 200))
	}
	s.serve(rules...)
	w.envoy()
	s.answers(map[string]int{"/3": 200, "/17": 200, "/18": 200, "/49": 200})
	s.leftOut("t17/bad", "t18/bad", "t3/bad", "t49/bad")
	s.serve(append(tenants(50, 201), tenant("t3", "bad", foreign(0), 200))...)
	s.answers(map[string]int{"/3": 201})
	s.leftOut("t3/bad")
	s.serve(tenants(50, 202)...)
	s.answers(map[string]int{"/3": 202})
	s.leftOut()
}

// TestRefusedRouteAfterRestart: another agent finds what is refused again, and what is served is not disturbed meanwhile.
func TestRefusedRouteAfterRestart(t *testing.T) {
	w := newWorld(t, Config{})
	s := newShared(t, w)
	s.serve(append(tenants(5, 200), tenant("evil", "bad", foreign(0), 200))...)
	w.envoy()
	s.answers(map[string]int{"/0": 200, "/4": 200})
	s.leftOut("evil/bad")
	w.stop()
	w.server = New(w.st, w.server.cfg)
	w.serve()
	answered := func(p string) {
		t.Helper()
		if a, err := trySend(s.port, "GET", "x", p, nil); err != nil || a.status != 200 {
			t.Errorf("%s is answered %d, %v", p, a.status, err)
		}
	}
	until(t, "Envoy has the table from the new agent", func() error {
		answered("/0")
		if !w.accepted(TypeRoute, s.table()+plainSuffix) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	s.leftOut("evil/bad")
	s.serve(append(tenants(5, 201), tenant("evil", "bad", foreign(0), 200))...)
	s.answers(map[string]int{"/0": 201, "/4": 201})
}

// TestRefusedRouteOfService: a Service whose route is left out is as it is without the route, for each namespace of callers.
func TestRefusedRouteOfService(t *testing.T) {
	name, n := "service/shop/web/80", serviceName{namespace: "shop", name: "web", port: 80}
	own := func(namespace, route string) model.Rule {
		r := tenant(namespace, route, model.Match{}, 200)
		r.CallerNamespace = namespace
		return r
	}
	end := func(r model.Rule) model.Rule {
		return model.Rule{Route: r.Route, Generation: 1, CallerNamespace: r.CallerNamespace, Status: 404}
	}
	producer := tenant("shop", "web", model.Match{}, 200)
	a, b := own("a", "x"), own("a", "y")
	for _, test := range []struct {
		name     string
		rules    []model.Rule
		excluded []string
		want     []model.Rule
	}{
		{"the only one", []model.Rule{producer}, []string{"web"}, []model.Rule{toService(n)}},
		{"one of two", []model.Rule{producer, tenant("shop", "other", model.Match{}, 201)}, []string{"web"}, []model.Rule{tenant("shop", "other", model.Match{}, 201)}},
		{"the only one of callers", []model.Rule{a, end(a), producer}, []string{"x"}, []model.Rule{producer}},
		{"the first of two of callers", []model.Rule{a, b, end(a), producer}, []string{"x"}, []model.Rule{b, end(a), producer}},
		{"all", []model.Rule{a, b, end(a), producer}, []string{"x", "y", "web"}, []model.Rule{toService(n)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			table := &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: test.rules}}}
			got := leaveOut(table, n, func(r model.ObjectRef) bool { return slices.Contains(test.excluded, r.Name) })
			if fmt.Sprintf("%+v", got.VirtualHosts[0].Rules) != fmt.Sprintf("%+v", test.want) {
				t.Errorf("%+v, want %+v", got.VirtualHosts[0].Rules, test.want)
			}
			if len(table.VirtualHosts[0].Rules) != len(test.rules) {
				t.Error("the table itself was changed")
			}
		})
	}
}

// TestInvalidRouteAlone: what the rules of Envoy's protos do not allow is left out without a question to Envoy.
func TestInvalidRouteAlone(t *testing.T) {
	w := newWorld(t, Config{})
	s := newShared(t, w)
	invalid := tenant("evil", "bad", path(model.MatchExact, "/x"), 1000)
	s.serve(append(tenants(3, 200), invalid)...)
	w.envoy()
	s.answers(map[string]int{"/0": 200, "/2": 200})
	s.leftOut("evil/bad")
	s.serve(append(tenants(3, 201), invalid)...)
	s.answers(map[string]int{"/0": 201, "/2": 201})
	s.leftOut("evil/bad")
	invalid.Status = 203
	s.serve(append(tenants(3, 201), invalid)...)
	s.answers(map[string]int{"/0": 201, "/x": 203})
	s.leftOut()
}

// TestRefusedRouteThatChanges: a tenant that replaces and renames a refused route all the time, faster than Envoy answers, does not
// keep others from changing, and what is remembered of its routes ends with them.
func TestRefusedRouteThatChanges(t *testing.T) {
	testenv.Envoy(t)
	w := newWorld(t, Config{})
	s := newShared(t, w)
	s.serve(append(tenants(20, 200), tenant("evil", "bad", foreign(0), 200))...)
	w.envoy()
	s.answers(map[string]int{"/0": 200})
	var status atomic.Int64
	status.Store(200)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			evil := tenant("evil", []string{"bad", fmt.Sprint("bad-", i)}[i%2], foreign(i), 200)
			evil.Generation = int64(i)
			s.serve(append(tenants(20, int(status.Load())), evil)...)
		}
	}()
	for i := range 20 {
		status.Store(int64(201 + i))
		s.answers(map[string]int{"/0": 201 + i, "/19": 201 + i})
	}
	close(stop)
	<-stopped
	s.serve(tenants(20, 250)...)
	s.answers(map[string]int{"/0": 250})
	s.leftOut()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	x := w.server.cache.excluded[s.table()+plainSuffix]
	if x == nil || len(x.refused) > 0 || len(x.taken) > 21 {
		t.Errorf("what is remembered of the table: %+v", x)
	}
}

// TestTrialsOfOneNamespace: of a namespace with much to refuse not all is found apart. What is refused together with others is
// tried again once one of these has gone.
func TestTrialsOfOneNamespace(t *testing.T) {
	w := newWorld(t, Config{})
	s := newShared(t, w)
	var rules []model.Rule
	for i := range 100 {
		rules = append(rules, tenant("evil", fmt.Sprintf("bad%02d", i), foreign(i), 200), tenant("evil", fmt.Sprintf("good%02d", i), path(model.MatchExact, fmt.Sprint("/good", i)), 200))
	}
	s.serve(append(tenants(3, 200), rules...)...)
	w.envoy()
	s.answers(map[string]int{"/0": 200, "/2": 200})
	apart, together := 0, 0
	until(t, "all refused routes are reported", func() error {
		apart, together = 0, 0
		for r := range w.st.Rejections.All(w.st.Snapshot()) {
			if strings.HasPrefix(r.Message, "it is one of several") {
				together++
			} else {
				apart++
			}
		}
		if together == 0 || apart == 0 || apart+together < 100 {
			return fmt.Errorf("%d apart, %d together", apart, together)
		}
		return nil
	})
	if apart > maxTrials {
		t.Errorf("%d were found apart, with at most %d trials", apart, maxTrials)
	}
	rules = slices.DeleteFunc(rules, func(r model.Rule) bool { return strings.HasPrefix(r.Route.Name, "bad") })
	s.serve(append(tenants(3, 201), rules...)...)
	s.answers(map[string]int{"/0": 201, "/good0": 200, "/good99": 200})
	s.leftOut()
}

// TestRefusedCertificateAlone: a certificate that Envoy refuses is that of its listener alone. The others of the port are served,
// and change.
func TestRefusedCertificateAlone(t *testing.T) {
	w := newWorld(t, Config{})
	port := freePort(t)
	serve := func(status int) {
		p := model.GatewayPort{Port: port, TLS: true}
		for _, name := range []string{"a", "b", fmt.Sprint("n", status)} {
			table := model.GatewayTable("shop", "gw", port, name)
			put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{Status: status}}}}})
			chain, key := w.ca.issue("", name+".example")
			if name == "a" {
				_, key = w.ca.issue("", "another certificate's key")
			}
			put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: name, ChainPEM: chain, KeyPEM: key})
			p.Listeners = append(p.Listeners, model.GatewayListener{
				Name: name, Hostname: name + ".example", RouteTable: table, Certificates: []string{"shop/" + name},
			})
		}
		put(w, w.st.Gateways, &model.Gateway{
			Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []model.GatewayPort{p},
		})
	}
	serve(200)
	e := w.envoy()
	for _, status := range []int{200, 201, 202} {
		serve(status)
		for _, host := range []string{"b.example", fmt.Sprintf("n%d.example", status)} {
			e.until(host, func() error {
				got, err := statusByTLS(port, host)
				if err == nil && got != status {
					err = fmt.Errorf("status %d, want %d", got, status)
				}
				return err
			})
		}
	}
	w.rejectionsAre("Secret/cert|shop/a")
}

func statusByTLS(port uint16, host string) (int, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", port),
		&tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	return r.StatusCode, r.Body.Close()
}

// trier speaks as an Envoy that uses tables and tries others.
func (w *world) trier(refuses func(*discovery.Resource) bool, tables ...string) *client {
	c := w.client()
	c.refuse = func(r *discovery.DeltaDiscoveryResponse) string {
		if slices.ContainsFunc(r.Resources, refuses) {
			return "no such thing"
		}
		return ""
	}
	c.subscribe(TypeRoute, tables...)
	return c
}

// holds reports whether a table holds rules of the route of Service s1.
func holds(res *discovery.Resource) bool {
	return strings.Contains(string(res.Resource.Value), "HTTPRoute/shop/s1")
}

func takesAll(*discovery.Resource) bool { return false }

// rejectionsBecome waits for the keys of the table's rows while clients answer.
func (w *world) rejectionsBecome(want []string, clients ...*client) {
	w.t.Helper()
	until(w.t, "rejections", func() error {
		for _, c := range clients {
			c.drain()
		}
		if got := w.rejections(); !slices.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// has waits until a client has the newest version of a route table.
func (w *world) has(c *client, table string) {
	w.t.Helper()
	until(w.t, "the client has the table", func() error {
		c.drain()
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if got, want := c.have[TypeRoute][table], w.server.cache.stores[TypeRoute].resources[table].version; got != want {
			return fmt.Errorf("version %q, want %q", got, want)
		}
		return nil
	})
	c.drain() // the server has the answer
}

// TestRouteLeftOutForAnEnvoyThatEnded: what only an Envoy refused that has ended is tried again with the one that is there, also if
// the first ended before it had answered.
func TestRouteLeftOutForAnEnvoyThatEnded(t *testing.T) {
	part := "RouteConfiguration/" + refusedTable + " for HTTPRoute/shop/s1"
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprintf("answered %v", answered), func(t *testing.T) {
			w := newWorld(t, Config{})
			split(w, "s1", 1, 1)
			old := w.trier(holds, trialName, refusedTable)
			w.rejectionsBecome([]string{part}, old)
			w.has(old, refusedTable)
			if !answered {
				split(w, "s1", 1, 2) // to be tried by the old one, which says nothing
				if r := <-old.got; !slices.Equal(resourceNames(r), []string{trialName}) {
					t.Fatalf("not a trial: %v", resourceNames(r))
				}
			}
			next := w.trier(takesAll, trialName, refusedTable)
			w.has(next, refusedTable)
			old.close()
			w.rejectionsBecome(nil, next)
			until(t, "the route is in the table", func() error {
				next.drain()
				if w.server.excludes(refusedTable) {
					return errors.New("it is left out")
				}
				return nil
			})
		})
	}
}

// excludes reports whether something is left out of a table.
func (s *Server) excludes(table string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.cache.excluded[table]
	return x != nil && len(x.refused) > 0
}

// TestTableRefusedBeforeTrials: what Envoy refused before it asked for the table of trials is looked into when it does.
func TestTableRefusedBeforeTrials(t *testing.T) {
	w := newWorld(t, Config{})
	split(w, "s1", 1, 1)
	c := w.trier(holds, refusedTable)
	w.rejectionsBecome([]string{"RouteConfiguration/" + refusedTable}, c)
	c.subscribe(TypeRoute, trialName)
	w.rejectionsBecome([]string{"RouteConfiguration/" + refusedTable + " for HTTPRoute/shop/s1"}, c)
	w.has(c, refusedTable)
}

// TestRefusalThatNoPartExplains: where Envoy takes each part and refuses the table, the table is reported against all.
func TestRefusalThatNoPartExplains(t *testing.T) {
	w := newWorld(t, Config{})
	split(w, "s1", 1, 1)
	c := w.trier(func(res *discovery.Resource) bool { return res.Name == refusedTable }, trialName, refusedTable)
	w.rejectionsBecome([]string{"RouteConfiguration/" + refusedTable}, c)
}
