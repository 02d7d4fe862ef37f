package gateway

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// everything is an allow-list that leaves nothing out.
var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// owned puts an owner of each kind of address that no Service may take.
func owned(t *testing.T, cfg Config) *world {
	cfg.Addresses = AddressesOfPools
	cfg.APIServer = netip.MustParseAddrPort("192.168.9.9:6443")
	w := newWorld(cfg)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: created("default", "kubernetes", 9), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Port: new(int32(443))}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.168.9.8"}}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	w.put(t, slice,
		&corev1.Node{ObjectMeta: created("", "node-2", 9), Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24", PodCIDRs: []string{"10.244.2.0/24", "fd00:2::/64"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "node-2"}, {Type: corev1.NodeInternalIP, Address: "192.168.0.2"}, {Type: corev1.NodeExternalIP, Address: "2001:db8:9::2"}}}},
		&corev1.Pod{ObjectMeta: created("ns", "pod", 1), Status: corev1.PodStatus{PodIP: "10.0.0.1"}},
		&corev1.Service{ObjectMeta: created("kube-system", "dns", 1), Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00:96::10"}, Ports: []corev1.ServicePort{{Port: 53}}}},
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 99), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&weftv1.AddressPool{ObjectMeta: created("", "edge", 99), Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/29", "2001:db8::/126"}}},
		&gwv1.Gateway{ObjectMeta: created("ns", "gw", 1), Spec: gwv1.GatewaySpec{GatewayClassName: "weft",
			Listeners: []gwv1.Listener{{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80}}}},
	)
	return w
}

// notForServices are addresses that no Service may have but by spec.clusterIPs.
var notForServices = map[string]string{
	"192.168.0.1": "this node", "::ffff:192.168.0.1": "this node", "192.168.0.2": "node node-2", "2001:db8:9::2": "node node-2",
	"10.244.2.1": "the pods of node node-2", "fd00:2::1": "the pods of node node-2",
	"10.0.0.1": "pod ns/pod", "10.96.0.10": "Service kube-system/dns", "fd00:96::10": "Service kube-system/dns",
	"::ffff:10.96.0.10": "Service kube-system/dns",
	"192.0.2.0":         "Gateway ns/gw", "192.0.2.5": "AddressPool edge", "2001:db8::3": "AddressPool edge",
	"192.168.9.9": "API server", "192.168.9.8": "API server",
	"127.0.0.1": "not an address that a Service can have", "::1": "not an address that a Service can have",
	"169.254.169.254": "not an address that a Service can have", "fe80::1": "not an address that a Service can have",
	"::ffff:127.0.0.1": "not an address that a Service can have", "255.255.255.255": "not an address that a Service can have",
}

// TestServicesTakeNobodysAddress holds for every field but spec.clusterIPs and every allow-list, and whether the Service
// or what it would rob was there first.
func TestServicesTakeNobodysAddress(t *testing.T) {
	fields := map[string]func(*corev1.Service, string){
		"externalIPs": func(s *corev1.Service, a string) { s.Spec.ExternalIPs = []string{a} },
		"loadBalancer": func(s *corev1.Service, a string) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: a}}
		},
	}
	for field, set := range fields {
		for address, owner := range notForServices {
			t.Run(field+" "+address, func(t *testing.T) {
				cfg := testConfig
				cfg.ExternalIPs = everything
				w := owned(t, cfg)
				thief := &corev1.Service{ObjectMeta: created("evil", "thief", 50), Spec: corev1.ServiceSpec{
					ClusterIP: "10.96.0.99", Ports: []corev1.ServicePort{{Port: 53}, {Port: 80}, {Port: 443}, {Port: 6443}},
				}}
				set(thief, address)
				w.put(t, thief)
				w.Sync()
				if got := w.service(t, "evil/thief").Addresses; !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.96.0.99")}) {
					t.Errorf("the Service has %v", got)
				}
				if got := w.problemOf("Service", "evil", "thief"); !strings.Contains(got, owner) {
					t.Errorf("its status says %q, want %q", got, owner)
				}
				if got := len(w.service(t, "kube-system/dns").Addresses); got != 2 {
					t.Errorf("Service kube-system/dns has %d addresses, want its 2", got)
				}
				if gw, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/gw"); !ok || gw.Addresses[0].String() != "192.0.2.0" {
					t.Errorf("the Gateway is %+v", gw)
				}
			})
		}
	}
}

func (w *world) service(t *testing.T, key string) *model.Service {
	t.Helper()
	s, ok := w.st.Services.Get(w.st.Snapshot(), key)
	if !ok {
		t.Fatalf("there is no Service %s", key)
	}
	return s
}

// problemOf returns what a status says of an object; "" for nothing.
func (w *world) problemOf(kind, namespace, name string) string {
	s, _ := w.st.Statuses.Get(w.st.Snapshot(), model.ObjectRef{Kind: kind, Namespace: namespace, Name: name}.String())
	return problem(s)
}

// TestExternalIPsAreTakenOnlyInTheAllowedRanges: what is ignored is said, and an ignored address keeps nobody from it.
func TestExternalIPsAreTakenOnlyInTheAllowedRanges(t *testing.T) {
	service := func(name string, age int, external ...string) *corev1.Service {
		return &corev1.Service{ObjectMeta: created("ns", name, age), Spec: corev1.ServiceSpec{
			ExternalIPs: external, Ports: []corev1.ServicePort{{Port: 80}},
		}}
	}
	for _, c := range []struct {
		name    string
		allowed []netip.Prefix
		want    []string
	}{
		{"none", nil, nil},
		{"another range", []netip.Prefix{netip.MustParsePrefix("203.0.114.0/24")}, nil},
		{"its range", []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, []string{"203.0.113.7"}},
		{"IPv6", []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")}, []string{"2001:db8:1::7"}},
		{"all", everything, []string{"203.0.113.7", "2001:db8:1::7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig
			cfg.ExternalIPs = c.allowed
			w := newWorld(cfg)
			w.put(t, service("s", 1, "203.0.113.7", "2001:db8:1::7"))
			w.Sync()
			var got []string
			for _, a := range w.service(t, "ns/s").Addresses {
				got = append(got, a.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the Service has %v, want %v", got, c.want)
			}
			if said := strings.Count(w.problemOf("Service", "ns", "s"), "is ignored"); said != 2-len(c.want) {
				t.Errorf("its status says %q", w.problemOf("Service", "ns", "s"))
			}
		})
	}
	t.Run("an ignored address is free for others", func(t *testing.T) {
		w := newWorld(testConfig)
		lb := service("lb", 1)
		lb.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}, {Hostname: "lb.example"}}
		w.put(t, service("old", 99, "203.0.113.7"), lb)
		w.Sync()
		if got := w.service(t, "ns/lb").Addresses; len(got) != 1 {
			t.Errorf("the load balancer's Service has %v", got)
		}
		if p := w.problemOf("Service", "ns", "lb"); p != "" {
			t.Errorf("its status says %q", p)
		}
	})
	t.Run("a load balancer's address comes before an external IP", func(t *testing.T) {
		cfg := testConfig
		cfg.ExternalIPs = everything
		w := newWorld(cfg)
		lb := service("lb", 1)
		lb.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
		w.put(t, service("old", 99, "203.0.113.7"), lb)
		w.Sync()
		if got := w.service(t, "ns/lb").Addresses; len(got) != 1 {
			t.Errorf("the load balancer's Service has %v", got)
		}
		if got := w.service(t, "ns/old").Addresses; len(got) != 0 {
			t.Errorf("the other has %v", got)
		}
	})
}

// TestANodeThatComesTakesItsAddressBack: the Service that had it is translated again.
func TestANodeThatComesTakesItsAddressBack(t *testing.T) {
	cfg := testConfig
	cfg.ExternalIPs = everything
	w := newWorld(cfg)
	w.put(t, &corev1.Service{ObjectMeta: created("ns", "s", 1), Spec: corev1.ServiceSpec{
		ExternalIPs: []string{"192.168.0.7", "10.244.7.1"}, Ports: []corev1.ServicePort{{Port: 10250}},
	}})
	w.Sync()
	if got := w.service(t, "ns/s").Addresses; len(got) != 2 {
		t.Fatalf("the Service has %v", got)
	}
	w.put(t, &corev1.Node{ObjectMeta: created("", "late", 0), Spec: corev1.NodeSpec{PodCIDR: "10.244.7.0/24"},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.7"}}}})
	w.Sync()
	if got := w.service(t, "ns/s").Addresses; len(got) != 0 {
		t.Errorf("the Service still has %v", got)
	}
}

// TestALoadBalancerOfModeProxyKeepsItsAddress: it wants to see the traffic (KEP-1860).
func TestALoadBalancerOfModeProxyKeepsItsAddress(t *testing.T) {
	w := newWorld(testConfig)
	proxy, vip := corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP
	w.put(t, &corev1.Service{ObjectMeta: created("ns", "s", 1), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "203.0.113.1", IPMode: &proxy}, {IP: "203.0.113.2", IPMode: &vip}, {IP: "203.0.113.3"}}}}})
	w.Sync()
	want := []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.3")}
	if got := w.service(t, "ns/s").Addresses; !slices.Equal(got, want) {
		t.Errorf("the Service has %v, want %v", got, want)
	}
}

// TestSourceRangesLeaveALoadBalancersAddress: whoever may not reach it from outside must not reach it through the mesh.
func TestSourceRangesLeaveALoadBalancersAddress(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, &corev1.Service{ObjectMeta: created("ns", "s", 1), Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", LoadBalancerSourceRanges: []string{"198.51.100.0/24"}, Ports: []corev1.ServicePort{{Port: 80}},
	}, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}}}}})
	w.Sync()
	if got := w.service(t, "ns/s").Addresses; !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.96.0.1")}) {
		t.Errorf("the Service has %v", got)
	}
	if got := w.problemOf("Service", "ns", "s"); !strings.Contains(got, "loadBalancerSourceRanges") {
		t.Errorf("its status says %q", got)
	}
}

// TestServicesDoNotExhaustPools: a Gateway gets an address that Services named before.
func TestServicesDoNotExhaustPools(t *testing.T) {
	cfg := testConfig
	cfg.Addresses = AddressesOfPools
	w := newWorld(cfg)
	squatter := &corev1.Service{ObjectMeta: created("evil", "squatter", 99), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	for i := range 8 {
		squatter.Spec.ExternalIPs = append(squatter.Spec.ExternalIPs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String())
	}
	w.put(t, squatter,
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 99), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&weftv1.AddressPool{ObjectMeta: created("", "edge", 99), Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/29"}}},
		&gwv1.Gateway{ObjectMeta: created("ns", "gw", 1), Spec: gwv1.GatewaySpec{GatewayClassName: "weft",
			Listeners: []gwv1.Listener{{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80}}}},
		&gwv1.Gateway{ObjectMeta: created("ns", "static", 1), Spec: gwv1.GatewaySpec{GatewayClassName: "weft",
			Addresses: []gwv1.GatewaySpecAddress{{Value: "192.0.2.4"}},
			Listeners: []gwv1.Listener{{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80}}}})
	w.Sync()
	for _, key := range []string{"ns/gw", "ns/static"} {
		if gw, ok := w.st.Gateways.Get(w.st.Snapshot(), key); !ok || len(gw.Addresses) != 1 {
			t.Errorf("Gateway %s: %+v", key, gw)
		}
	}
}
