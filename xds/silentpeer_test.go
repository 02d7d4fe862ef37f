package xds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// silentPeers are endpoints with an identity that do not answer, by the kind of their silence. Each is a Service beside one that
// serves.
type silentPeers struct {
	*world
	caller   *lab.Pod
	received func() []*http.Request
	http     uint16            // the Gateway's port
	paths    map[string]string // of requests, by silence
	tried    *tunnelFlows
}

// silentPod is a workload of another node, which has the identity of the one that serves.
func silentPod(name string, addresses []netip.Addr, served *model.Workload) *model.Workload {
	return &model.Workload{
		Namespace: "shop", Name: name, ServiceAccount: served.ServiceAccount, MTLS: served.MTLS, Identity: served.Identity,
		Node: "other", Addresses: addresses,
	}
}

func newSilentPeers(t *testing.T, mode model.MTLSMode) *silentPeers {
	pods := labPods(t, "a", "b", "c", "d", "e", "f")
	m := &silentPeers{
		world:  newWorld(t, Config{Tunnel: true, GatewayNetNS: hostNetNS(t)}),
		caller: pods[0], paths: map[string]string{}, http: freePort(t),
	}
	served := workload(pods[1], "shop", mode, nil)
	m.received = record(t, pods[1], 8080)
	dropping, mute := pods[2], pods[3]
	for _, table := range []string{"iptables", "ip6tables"} {
		podRun(t, dropping, table, "-w", "-A", "INPUT", "-p", "tcp", "--dport", fmt.Sprint(model.PortTunnel), "-j", "DROP")
	}
	takesAndIsSilent(t, mute, model.PortTunnel)
	local := func(p *lab.Pod, policy *model.Policy) *model.Workload {
		w := workload(p, "shop", mode, policy)
		w.Identity, w.ServiceAccount = served.Identity, served.ServiceAccount
		return w
	}
	hung, idle := local(pods[4], nil), local(pods[5], &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{Ports: []uint16{8081}}}})
	neverAccepts(t, pods[4], 8080)
	silent := map[string]*model.Workload{
		"gone":     silentPod("gone", []netip.Addr{pods[5].Address.Next().Next().Next()}, served), // on the link, and nobody's
		"dropping": silentPod("dropping", []netip.Addr{dropping.Address, dropping.Address6}, served),
		"mute":     silentPod("mute", []netip.Addr{mute.Address}, served),
	}
	put(m.world, m.st.Workloads, workload(pods[0], "shop", mode, nil), served, hung, idle, silent["gone"], silent["dropping"], silent["mute"])
	put(m.world, m.st.Nodes, &model.Node{Name: "other", Accepts: []model.Transport{model.TransportTunnel}})
	gateway := identity("shop", "gw")
	put(m.world, m.st.SVIDs, m.ca.svid(identity("shop", "a")), m.ca.svid(served.Identity), m.ca.svid(gateway))
	m.tried = startedTunnel(t, m.world)
	m.serve(gateway, served, map[string]model.Endpoint{
		"its node is gone":                   endpointOf(silent["gone"], 0, 8080),
		"drops SYNs":                         endpointOf(silent["dropping"], 0, 8080),
		"drops SYNs, IPv6":                   endpointOf(silent["dropping"], 1, 8080),
		"takes connections and says nothing": endpointOf(silent["mute"], 0, 8080),
		"its application does not accept":    endpointOf(hung, 0, 8080),
		"nobody listens":                     endpointOf(idle, 0, 8081),
		"a policy denies it":                 endpointOf(idle, 0, 8080),
	})
	m.envoy()
	m.noRejections()
	return m
}

// serve makes a Service for each silence, and routes to them from a pod and from a Gateway.
func (m *silentPeers) serve(gateway model.Identity, served *model.Workload, silences map[string]model.Endpoint) {
	timeout := 4 * time.Second
	var rules []model.Rule
	for name, silent := range silences {
		service := fmt.Sprint("s", len(rules))
		m.paths[name] = "/" + service
		put(m.world, m.st.Services, &model.Service{Namespace: "shop", Name: service, Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
		put(m.world, m.st.Endpoints, &model.Endpoints{
			Service: "shop/" + service, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(served, 0, 8080), silent},
		})
		rules = append(rules, model.Rule{Timeout: &timeout, Backends: []model.Backend{to(service, 1)}, Match: path(model.MatchPrefix, m.paths[name])})
	}
	loopbackService(m.world, "app", endpointOf(served, 0, 8080))
	table := model.GatewayTable("shop", "gw", m.http, "")
	for _, name := range []string{table, model.ServiceTable("shop", "app", PortHTTP)} {
		put(m.world, m.st.RouteTables, &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
	}
	put(m.world, m.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Identity: gateway, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: m.http, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}}},
	})
}

// takesAndIsSilent takes connections to a port of a pod.
func takesAndIsSilent(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	go serveEach(l, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// TestSilentPeer: a request to an endpoint with an identity that does not answer, or refuses, goes to another one, whatever its method,
// soon enough for a route that allows 4 s, and arrives once.
func TestSilentPeer(t *testing.T) {
	for _, mode := range []model.MTLSMode{model.MTLSPermissive, model.MTLSStrict} {
		t.Run(mode.String(), func(t *testing.T) {
			m := newSilentPeers(t, mode)
			for name, path := range m.paths {
				m.requests(t, name+"/a pod's requests", path, func() net.Conn { return dialFrom(t, m.caller, "127.0.0.1:15001") })
				m.requests(t, name+"/a Gateway's requests", path, func() net.Conn {
					c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", m.http))
					if err != nil {
						t.Fatal(err)
					}
					_ = c.SetDeadline(time.Now().Add(15 * time.Second))
					return c
				})
			}
		})
	}
}

// requests sends some of each kind beside each other, until one was to go to the silent endpoint.
func (m *silentPeers) requests(t *testing.T, name, path string, dial func() net.Conn) {
	t.Run(name, func(t *testing.T) {
		const requests = 12
		failed := m.tried.failures()
		until(t, "a request that was to go to the silent endpoint", func() error {
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
			if !t.Failed() && m.tried.failures() == failed {
				return errors.New("none yet")
			}
			return nil
		})
	})
}

func atOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
