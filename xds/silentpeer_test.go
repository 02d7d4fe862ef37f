package xds

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// silentPeers are endpoints with an identity that do not answer, by the kind of their silence. Each is a Service beside one that
// serves. asked counts what was tried at those that can tell.
type silentPeers struct {
	*world
	caller   *lab.Pod
	served   *model.Workload
	received func() []*http.Request
	asked    map[string]*atomic.Int64
	dropping *lab.Pod
	http     uint16            // the Gateway's port for requests
	streams  map[string]uint16 // those for bytes, by silence
	paths    map[string]string // of requests
}

func newSilentPeers(t *testing.T, mode model.MTLSMode) *silentPeers {
	pods := labPods(t, "a", "b", "c", "d", "e")
	m := &silentPeers{world: newWorld(t, Config{}), caller: pods[0], asked: map[string]*atomic.Int64{}, streams: map[string]uint16{}, paths: map[string]string{}, dropping: pods[2], http: freePort(t)}
	m.served = workload(pods[1], "shop", mode, nil)
	put(m.world, m.st.Workloads, workload(pods[0], "shop", mode, nil), m.served)
	gateway := identity("shop", "gw")
	put(m.world, m.st.SVIDs, m.ca.svid(identity("shop", "a")), m.ca.svid(m.served.Identity), m.ca.svid(gateway))
	m.received = record(t, pods[1], 8080)
	answersAndCloses(t, pods[1], 9000)

	mute, stuck := pods[3], pods[4]
	podRun(t, m.dropping, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "15008", "-j", "DROP")
	podRun(t, m.dropping, "ip6tables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "15008", "-j", "DROP")
	m.asked["takes connections and says nothing"] = takesAndIsSilent(t, mute, PortHBONE)
	m.asked["does not answer the CONNECT"] = neverConnects(t, stuck, m.ca.tlsConfig(identity("shop", "e")))
	gone := &model.Workload{Namespace: "shop", Name: "gone", MTLS: mode, Identity: identity("shop", "gone"), Addresses: []netip.Addr{
		m.served.Addresses[0].Next().Next().Next().Next().Next().Next().Next(), // on the link, and nobody's
	}}
	silences := map[string]model.Endpoint{
		"its node is gone":                   endpointOf(gone, 0, 8080),
		"drops SYNs":                         endpointOf(workload(m.dropping, "shop", mode, nil), 0, 8080),
		"drops SYNs, IPv6":                   endpointOf(workload(m.dropping, "shop", mode, nil), 1, 8080),
		"takes connections and says nothing": endpointOf(workload(mute, "shop", mode, nil), 0, 8080),
		"does not answer the CONNECT":        endpointOf(workload(stuck, "shop", mode, nil), 0, 8080),
	}
	timeout := 4 * time.Second
	var rules []model.Rule
	gw := &model.Gateway{Namespace: "shop", Name: "gw", Identity: gateway, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	n := 0
	for name, silent := range silences {
		n++
		service := fmt.Sprint("s", n)
		m.paths[name] = "/" + service
		stream := silent
		stream.Address = netip.AddrPortFrom(silent.Address.Addr(), 9000)
		put(m.world, m.st.Services, &model.Service{Namespace: "shop", Name: service, Ports: []model.ServicePort{
			{Name: "http", Port: 80, Protocol: model.TCP}, {Name: "bytes", Port: 81, Protocol: model.TCP},
		}})
		put(m.world, m.st.Endpoints,
			&model.Endpoints{Service: "shop/" + service, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(m.served, 0, 8080), silent}},
			&model.Endpoints{Service: "shop/" + service, Port: 81, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(m.served, 0, 9000), stream}})
		rules = append(rules, model.Rule{Timeout: &timeout, Backends: []model.Backend{to(service, 1)}, Match: path(model.MatchPrefix, m.paths[name])})
		ref := streamRef("TCPRoute", service)
		putStream(m.world, ref, model.Backend{Namespace: "shop", Name: service, Port: 81, Weight: 1})
		m.streams[name] = freePort(t)
		gw.Ports = append(gw.Ports, model.GatewayPort{Port: m.streams[name], Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: ref}}}}})
	}
	loopbackService(m.world, "app", endpointOf(m.served, 0, 8080))
	table := model.GatewayTable("shop", "gw", m.http, "")
	gw.Ports = append(gw.Ports, model.GatewayPort{Port: m.http, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}})
	for _, name := range []string{table, model.ServiceTable("shop", "app", PortHTTP)} {
		put(m.world, m.st.RouteTables, &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
	}
	put(m.world, m.st.Gateways, gw)
	m.envoy()
	m.noRejections()
	return m
}

// takesAndIsSilent takes connections to a port of a pod, and counts them.
func takesAndIsSilent(t *testing.T, p *lab.Pod, port uint16) *atomic.Int64 {
	t.Helper()
	l, err := p.Listen("tcp", netip.AddrPortFrom(p.Address, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var taken atomic.Int64
	go serveEach(l, func(c net.Conn) {
		taken.Add(1)
		_, _ = io.Copy(io.Discard, c)
	})
	return &taken
}

// neverConnects is an HBONE peer that answers no CONNECT, and counts them.
func neverConnects(t *testing.T, p *lab.Pod, cfg *tls.Config) *atomic.Int64 {
	t.Helper()
	l, err := p.Listen("tcp", netip.AddrPortFrom(p.Address, PortHBONE).String())
	if err != nil {
		t.Fatal(err)
	}
	var connects atomic.Int64
	s := &http.Server{TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			connects.Add(1)
			<-r.Context().Done()
		})}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return &connects
}

// TestSilentPeer: a request or connection to an endpoint with an identity that does not answer goes to another one, whatever its
// method, soon enough for a route that allows 4 s, and arrives once.
func TestSilentPeer(t *testing.T) {
	for _, mode := range []model.MTLSMode{model.MTLSPermissive, model.MTLSStrict} {
		t.Run(mode.String(), func(t *testing.T) {
			m := newSilentPeers(t, mode)
			for name := range m.streams {
				m.requests(t, name+"/a pod's requests", m.paths[name], func() net.Conn { return dialFrom(t, m.caller, "127.0.0.1:15001") })
				m.requests(t, name+"/a Gateway's requests", m.paths[name], func() net.Conn {
					c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", m.http))
					if err != nil {
						t.Fatal(err)
					}
					_ = c.SetDeadline(time.Now().Add(15 * time.Second))
					return c
				})
				t.Run(name+"/a Gateway's TCPRoute", func(t *testing.T) {
					g := &streamsGateway{port: m.streams[name]}
					atOnce(12, func(int) {
						if err := g.ask(1000); err != nil {
							t.Error(err)
						}
					})
				})
			}
			for name, asked := range m.asked {
				if asked.Load() == 0 {
					t.Errorf("%s: it was not tried", name)
				}
			}
			dropsSome(t, m.dropping, "iptables")
			dropsSome(t, m.dropping, "ip6tables")
		})
	}
}

// requests sends some of each kind beside each other.
func (m *silentPeers) requests(t *testing.T, name, path string, dial func() net.Conn) {
	t.Run(name, func(t *testing.T) {
		const requests = 12
		before := len(m.received())
		atOnce(requests, func(i int) {
			c := dial()
			defer c.Close()
			method, body := "GET", io.Reader(nil)
			if i%2 == 0 {
				method, body = "POST", strings.NewReader("abcd")
			}
			if status, _, err := overHTTP1(c, path, body); err != nil || status != http.StatusOK {
				t.Errorf("%s: status %d, %v", method, status, err)
			}
		})
		if n := len(m.received()) - before; n != requests {
			t.Errorf("%d requests arrived, want %d", n, requests)
		}
	})
}

func atOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
