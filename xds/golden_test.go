package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var update = flag.Bool("update", false, "write testdata/*.yaml")

// cases are small models; each gives testdata/<case>.yaml, and a real Envoy takes all of it.
var cases = map[string]struct {
	fill  func(w *world)
	names map[string][]string // by type; what a real Envoy would ask for
}{
	"service": {func(w *world) {
		goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true})
		put(w, w.st.Workloads, goldenPod("caller", "10.1.0.1", model.MTLSStrict, nil))
	}, map[string][]string{
		TypeScope:    {"10.96.0.1:80", "[fd96::1]:80|plain"},
		TypeRoute:    {"service/shop/echo/80"},
		TypeCluster:  {"service/shop/echo/80"},
		TypeEndpoint: {"service/shop/echo/80", "service/shop/echo/80|plain"},
	}},
	"h2c-affinity": {func(w *world) {
		goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true, AppProtocol: "kubernetes.io/h2c"})
		s, _ := w.st.Services.Get(w.st.Snapshot(), "shop/echo")
		sticky := *s
		sticky.Affinity = 3600e9
		put(w, w.st.Services, &sticky)
	}, map[string][]string{
		TypeRoute: {"service/shop/echo/80|plain"}, TypeCluster: {"service/shop/echo/80|plain"},
	}},
	"pod": {func(w *world) {
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSStrict, nil))
	}, map[string][]string{
		TypeListener: {"shop/web/out-http", "shop/web/out-tcp", "shop/web/hbone"},
		TypeFilter:   {"shop/web/out-http"},
		TypeCluster:  {"tcp|10.1.0.1", "tcp|fd01::1"},
	}},
	"detect": {func(w *world) {
		goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true, Detect: true})
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSStrict, nil))
	}, map[string][]string{
		TypeListener: {"shop/web/out-detect"}, TypeCluster: {clusterBytes},
	}},
	"sni": {func(w *world) {
		goldenService(w, model.ServicePort{Port: 443, Protocol: model.TCP, SNI: true})
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSStrict, nil))
		put(w, w.st.Services, &model.Service{ // its route has gone
			Namespace: "shop", Name: "bare", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.9")}, Ports: []model.ServicePort{{Port: 443, Protocol: model.TCP}},
		})
		a, b := streamRef("TLSRoute", "a"), streamRef("TLSRoute", "b")
		for _, d := range []*model.Division{
			{Names: []model.GatewayStream{{Hostname: "a.example", Route: a}, {Hostname: "*.example", Route: b}}},
			{CallerNamespace: "ops", Names: []model.GatewayStream{{Route: b}}},
		} {
			d.Service, d.Port = "shop/echo", 443
			put(w, w.st.Divisions, d)
		}
		put(w, w.st.StreamRoutes, &model.StreamRoute{Route: a, Mesh: true, Backends: []model.Backend{to("echo", 3), {Invalid: true, Weight: 1}}})
	}, map[string][]string{
		TypeListener: {"shop/web/out-sni", "sni/shop/echo/443", "sni/shop/echo/443 from ops"},
		TypeCluster: {
			"sni|10.96.0.1:443|shop", "sni|[fd96::1]:443|ops", "sni|10.96.0.9:443|shop",
			"stream/TLSRoute/shop/a|mesh", "stream/TLSRoute/shop/b|mesh",
		},
		TypeEndpoint: {"stream/TLSRoute/shop/a|mesh", "stream/TLSRoute/shop/b|mesh"},
	}},
	"pod-without-identity": {func(w *world) {
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSDisabled, nil))
	}, map[string][]string{
		TypeListener: {"shop/web/out-http"}, TypeFilter: {"shop/web/out-http"},
	}},
	"policy": {func(w *world) {
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSPermissive, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
			{Sources: []model.PolicySource{{Identity: identity("shop", "a")}, {Namespace: "ops"}}, Ports: []uint16{5432}},
			{Ports: []uint16{9090}},
		}}))
	}, map[string][]string{TypeListener: {"shop/web/hbone", "shop/web/in"}, TypeFilter: {"shop/web/hbone"}}},
	"policy-refuse-all": {func(w *world) {
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSDisabled, &model.Policy{Names: []string{"shop/p"}}))
	}, map[string][]string{TypeListener: {"shop/web/in"}}},
	"policy-http": {func(w *world) {
		put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSPermissive, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
			{
				Sources: []model.PolicySource{{Identity: identity("shop", "a")}}, Ports: []uint16{8080},
				HTTP: []model.HTTPRule{{Methods: []string{"GET", "HEAD"}, Paths: []model.PathMatch{
					{Type: model.MatchPrefix, Value: "/a/"}, {Type: model.MatchExact, Value: "/b"}, {Type: model.MatchRegex, Value: "/c/[0-9]+"},
				}}},
			},
			{Ports: []uint16{5432}},
		}}))
	}, map[string][]string{
		TypeListener: {"shop/web/hbone", "shop/web/in", "shop/web/in-http"},
		TypeFilter:   {"shop/web/hbone", "shop/web/in", "shop/web/in-http"}, TypeCluster: {"shop/web/in-http"},
	}},
	"gateway": {goldenGateway, map[string][]string{
		TypeListener: {"gateway/shop/edge/80", "gateway/shop/edge/443"},
		TypeRoute:    {"gateway/shop/edge/80", "gateway/shop/edge/443/https"},
		TypeCluster:  {"service/shop/echo/80|http1", "service/shop/echo/80|grpc"},
	}},
	"telemetry": {goldenTelemetry, map[string][]string{
		TypeListener: {"gateway/shop/edge/80"},
		TypeCluster:  {"export|shop/edge"},
		TypeEndpoint: {"export|shop/edge"},
		TypeSecret:   {"header|shop/edge/authorization"},
	}},
	"listenersets": {goldenListenerSets, map[string][]string{
		TypeListener: {"gateway/shop/edge/443", "gateway/shop/edge/8080"},
		TypeRoute:    {"gateway/shop/edge/443/tenant/set/https", "gateway/shop/edge/8080"},
	}},
	"streams": {func(w *world) {
		goldenStreams(w)
		put(w, w.st.Workloads, goldenPod("b", "10.1.0.2", model.MTLSStrict, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
			{Ports: []uint16{9090}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}, {},
		}}))
		// Of these two endpoints the second one is not reached by weft tunnel: a policy looks at its requests.
		put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/two", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
			{Address: netip.MustParseAddrPort("10.1.0.2:8080"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
			{Address: netip.MustParseAddrPort("10.1.0.2:9090"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
		}})
		putStream(w, streamRef("TCPRoute", "two"), to("two", 1), to("echo", 1))
		put(w, w.st.Carried, &model.Carried{Subject: model.Tunnel, GatewayPort: 4001})
	}, map[string][]string{
		TypeListener: {"gateway/shop/edge/443", "gateway/shop/edge/3306"},
		TypeCluster:  {"stream/TLSRoute/shop/pass"},
		TypeEndpoint: {"stream/TLSRoute/shop/pass", "stream/TCPRoute/shop/none|plain", "stream/TCPRoute/shop/two"},
	}},
	"requests-by-tunnel": {func(w *world) {
		goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true})
		put(w, w.st.Workloads, goldenPod("b", "10.1.0.2", model.MTLSStrict, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
			{Ports: []uint16{9090}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}, {},
		}}))
		by := func(at string) model.Endpoint {
			return model.Endpoint{Address: netip.MustParseAddrPort(at), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")}
		}
		// The last of these endpoints is not reached by weft tunnel: a policy looks at its requests.
		put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/echo", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
			by("10.1.0.2:8080"), by("10.1.0.2:8081"), by("10.1.0.2:9090"),
		}})
		put(w, w.st.Carried, &model.Carried{Subject: model.Tunnel, GatewayPort: 4001, Process: "p1"})
	}, map[string][]string{
		TypeCluster:  {clusterTunnel},
		TypeEndpoint: {"service/shop/echo/80"},
	}},
	"datagrams": {goldenDatagrams, map[string][]string{
		TypeListener: {"gateway-udp/shop/edge/53"},
		TypeCluster:  {"gateway-udp/shop/edge/53"},
		TypeEndpoint: {"gateway-udp/shop/edge/53", "gateway-udp/shop/edge/5353"},
		TypeRuntime:  {model.RuntimeLimits},
	}},
	"backend-tls": {goldenBackendTLS, map[string][]string{
		TypeCluster:  {"service/shop/echo/80|http1", "service/shop/system/80|grpc", "stream/TCPRoute/shop/r", "stream/TCPRoute/shop/r|passthrough"},
		TypeEndpoint: {"service/shop/echo/80", "service/shop/system/80|grpc", "stream/TCPRoute/shop/r|plain"},
	}},
	"rules": {goldenRules, map[string][]string{TypeRoute: {"service/shop/echo/80"}}},
	"constant": {func(*world) {}, map[string][]string{
		TypeListener: {listenerOriginate, listenerMirror, listenerRefused, trialName, listenerTunnel},
		TypeCluster:  {clusterOriginate, clusterConnect, clusterInbound, clusterInboundHTTP, clusterMirror, clusterBytes, clusterTunnel},
	}},
}

func goldenService(w *world, p model.ServicePort) {
	put(w, w.st.Services, &model.Service{
		Namespace: "shop", Name: "echo", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")},
		Ports: []model.ServicePort{p},
	})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/echo", Port: p.Port, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("10.1.0.2:8080"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
		{Address: netip.MustParseAddrPort("10.1.0.3:8080"), Workload: "shop/c"},
		{Address: netip.MustParseAddrPort("10.1.0.4:8080"), Workload: "shop/d", Terminating: true},
		{Address: netip.MustParseAddrPort("[fd01::2]:8080"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
	}})
}

func goldenPod(name, ip string, mode model.MTLSMode, p *model.Policy) *model.Workload {
	w := workload(&lab.Pod{Name: name, Address: netip.MustParseAddr(ip), Address6: netip.MustParseAddr("fd01::1"), NetNS: "/run/netns/" + name}, "shop", mode, p)
	return w
}

func goldenGateway(w *world) {
	goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP})
	rule := model.Rule{
		Route:    model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: "r"},
		Backends: []model.Backend{{Namespace: "shop", Name: "echo", Port: 80, Weight: 1}},
	}
	grpc := rule
	grpc.Match = model.Match{GRPC: true, Path: model.PathMatch{Type: model.MatchExact, Value: "/pkg.Service/Method"}}
	plain, tls := model.GatewayTable("shop", "edge", 80, ""), model.GatewayTable("shop", "edge", 443, "https")
	put(w, w.st.RouteTables,
		&model.RouteTable{Name: plain, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
			{Route: rule.Route, Redirect: &model.Redirect{Scheme: "https", Status: 301}},
		}}}},
		&model.RouteTable{Name: tls, VirtualHosts: []model.VirtualHost{{Hosts: []string{"shop.example", "*.shop.example"}, Rules: []model.Rule{grpc, rule}}}})
	chain, key := w.ca.issue("", "shop.example")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "tls", ChainPEM: chain, KeyPEM: key})
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "edge", Identity: identity("shop", "edge"), Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
		Ports: []model.GatewayPort{
			{Port: 80, Listeners: []model.GatewayListener{{Name: "http", RouteTable: plain}}},
			{Port: 443, TLS: true, Listeners: []model.GatewayListener{{Name: "https", Hostname: "shop.example", RouteTable: tls, Certificates: []string{"shop/tls"}}}},
		},
	})
}

// goldenTelemetry is a Gateway whose requests are traced as a policy says, to a collector that is reached by TLS.
func goldenTelemetry(w *world) {
	goldenGateway(w)
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/edge")
	traced := *g
	traced.Tracing = tracingOf("p", otel(model.SecretHeader{Name: "authorization", Value: "Bearer hunter2"}))
	traced.Tracing.FollowParent, traced.Tracing.SpanName = true, "edge request"
	traced.Tracing.Attributes = []model.SpanAttribute{
		{Name: "env", Literal: "100%"}, {Name: "user", Header: "x-user"}, {Name: "tenant", Key: "http.response.header.x-tenant"},
	}
	for _, key := range model.SpanKeys {
		traced.Tracing.Attributes = append(traced.Tracing.Attributes, model.SpanAttribute{Name: key, Key: key})
	}
	put(w, w.st.Gateways, &traced)
	put(w, w.st.BackendTLS, &model.BackendTLS{
		Namespace: "observability", Service: "otel", Port: 4317, ServerName: "otel.example", SANs: []model.SubjectAltName{{DNS: "otel.example"}}, CA: authority,
		Policy: model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "BackendTLSPolicy", Namespace: "observability", Name: "tls"}},
	})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "observability/otel", Port: 4317, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("10.1.0.9:4317"), Workload: "observability/otel-0", MTLS: model.MTLSPermissive, Identity: identity("observability", "otel")},
	}})
}

// goldenListenerSets is a Gateway with the listeners of a tenant: on its own port, and on one that it has not itself.
func goldenListenerSets(w *world) {
	goldenGateway(w)
	set := model.ListenerSets{Sets: []model.ObjectVersion{listenerSetRef("tenant", "set", 2)}}
	only := model.ListenerSets{Sets: set.Sets, Only: true}
	https, http := model.GatewayTable("shop", "edge", 443, "tenant/set/https"), model.GatewayTable("shop", "edge", 8080, "")
	hosts := []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
		Route: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "tenant", Name: "r"}, Backends: []model.Backend{to("echo", 1)},
	}}}}
	put(w, w.st.RouteTables, &model.RouteTable{Name: https, ListenerSets: only, VirtualHosts: hosts}, &model.RouteTable{Name: http, ListenerSets: only, VirtualHosts: hosts})
	gw, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/edge")
	g := *gw
	g.Ports = []model.GatewayPort{
		{Port: 443, TLS: true, ListenerSets: set, Listeners: []model.GatewayListener{
			gw.Ports[1].Listeners[0],
			{Name: "tenant/set/https", Hostname: "*.shop.example", RouteTable: https, Certificates: []string{"shop/tls"}},
		}},
		{Port: 8080, ListenerSets: only, Listeners: []model.GatewayListener{{Name: "http", RouteTable: http}}},
	}
	put(w, w.st.Gateways, &g)
}

func listenerSetRef(namespace, name string, generation int64) model.ObjectVersion {
	ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "ListenerSet", Namespace: namespace, Name: name}
	return model.ObjectVersion{ObjectRef: ref, Generation: generation}
}

func goldenStreams(w *world) {
	goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP})
	chain, key := w.ca.issue("", "shop.example")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "tls", ChainPEM: chain, KeyPEM: key})
	pass, none := streamRef("TLSRoute", "pass"), streamRef("TCPRoute", "none")
	putStream(w, pass, to("echo", 3), to("gone", 1), to("echo", 2))
	putStream(w, none)
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "edge", Identity: identity("shop", "edge"), Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9")},
		Ports: []model.GatewayPort{
			{Port: 443, TLS: true, Listeners: []model.GatewayListener{
				{Name: "pass", Hostname: "*.example", Streams: []model.GatewayStream{{Hostname: "a.example", Route: pass}}},
				{Name: "end", Certificates: []string{"shop/tls"}, Streams: []model.GatewayStream{{Route: pass}}},
			}},
			{Port: 3306, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: none}}}}},
		},
	})
}

// goldenDatagrams has a port for UDP and one for TCP of one number, and a UDP port of a ListenerSet.
func goldenDatagrams(w *world) {
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/dns", Port: 53, Protocol: model.UDP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("10.1.0.2:5353"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
		{Address: netip.MustParseAddrPort("10.1.0.3:5353"), NotGranted: true},
		{Address: netip.MustParseAddrPort("[fd01::2]:5353"), Workload: "shop/b", MTLS: model.MTLSStrict, Identity: identity("shop", "b")},
	}})
	dns := func(name string, weight uint32) model.Backend {
		return model.Backend{Namespace: "shop", Name: name, Port: 53, Weight: weight}
	}
	r, none, tcp := streamRef("UDPRoute", "r"), streamRef("UDPRoute", "none"), streamRef("TCPRoute", "r")
	putStream(w, r, dns("dns", 3), dns("gone", 1), dns("dns", 2))
	putStream(w, none)
	putStream(w, tcp)
	routed := func(ref model.ObjectRef) []model.GatewayListener {
		return []model.GatewayListener{{Name: "l", Streams: []model.GatewayStream{{Route: ref}}}}
	}
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "edge", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")},
		Ports: []model.GatewayPort{
			{Port: 53, Listeners: routed(tcp)},
			{Port: 53, UDP: true, Listeners: routed(r)},
			{Port: 99, UDP: true}, // without a route nobody listens
			{Port: 5353, UDP: true, Listeners: routed(none), ListenerSets: model.ListenerSets{
				Sets: []model.ObjectVersion{listenerSetRef("tenant", "set", 2)}, Only: true,
			}},
		},
	})
}

// authority is a certificate that does not change.
const authority = `-----BEGIN CERTIFICATE-----
MIIBgjCCASmgAwIBAgIUUjeng8bt0sRZ5dNmADFmYkY7DWkwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLYXV0aG9yaXR5IGEwIBcNMjYxMTI5MTAzNDEyWhgPMjEyNjEx
MDUxMDM0MTJaMBYxFDASBgNVBAMMC2F1dGhvcml0eSBhMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEEgFg2lzBMUjgngMWDfyMITO3UCxDhGZ4X3OvErS3s5wACW2D
5tXj0bS5EFrsBZMjay7Q+nRI6ScOdCGqB4RhXqNTMFEwHQYDVR0OBBYEFGoBbFuT
xLvTijYK9Qyh+gW4LfTbMB8GA1UdIwQYMBaAFGoBbFuTxLvTijYK9Qyh+gW4LfTb
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgOvRHrMe3eu8N9wdo
IdF7kaNFsFfFgJ7bwc+l6+SpDXICICkdV+zcgXoZi28bHhovnUGQnMOicRCrCRmm
IcE8srZP
-----END CERTIFICATE-----
`

func goldenBackendTLS(w *world) {
	goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP})
	put(w, w.st.BackendTLS, policyOf("echo", func(b *model.BackendTLS) {
		b.CA, b.SANs = authority, []model.SubjectAltName{{DNS: "a.example"}, {URI: "spiffe://td/a"}}
	}), policyOf("system", nil))
	putStream(w, streamRef("TCPRoute", "r"), to("echo", 1), to("clear", 1))
}

func goldenRules(w *world) {
	put(w, w.st.RouteTables, &model.RouteTable{Name: "service/shop/echo/80", VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
		{
			CallerNamespace: "team",
			Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/a/"}, Method: "GET",
				Headers: []model.ValueMatch{{Name: "x-v", Type: model.MatchRegex, Value: "[12]"}},
				Query:   []model.ValueMatch{{Name: "q", Type: model.MatchExact, Value: "1"}}},
			Rewrite:        &model.Rewrite{Host: "other", Path: &model.PathChange{Prefix: ptr("/")}},
			RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-s", Value: "100%"}}, Add: []model.Header{{Name: "x-a", Value: "1"}}, Remove: []string{"x-r"}},
			Backends:       []model.Backend{to("v1", 90), to("v2", 10)},
		},
		{
			Match:   model.Match{Path: model.PathMatch{Type: model.MatchExact, Value: "/b"}},
			Mirrors: []model.Mirror{{Backend: to("v2", 0), Numerator: 1, Denominator: 3}},
			Timeout: ptr(duration(2e9).AsDuration()), BackendTimeout: ptr(duration(1e9).AsDuration()),
			Retry:    &model.Retry{Codes: []int{502, 503}, Attempts: 2, Backoff: 1e8},
			Backends: []model.Backend{to("v1", 1), {Namespace: "x", Name: "y", Port: 1, Weight: 2, Invalid: true}},
		},
		{Match: model.Match{Path: model.PathMatch{Type: model.MatchRegex, Value: "/c/.*"}}, Status: 404},
		{
			Match:   model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/d"}, Method: "POST"},
			Rewrite: &model.Rewrite{Host: "all", Path: &model.PathChange{Full: ptr("/all")}},
			Retry:   &model.Retry{Attempts: 0},
			Backends: []model.Backend{
				{Namespace: "x", Name: "y", Port: 1, Weight: 1, Invalid: true},
				rewritten(to("v1", 1), &model.Rewrite{Path: &model.PathChange{Prefix: ptr("/one")}}),
				rewritten(to("v2", 1), &model.Rewrite{Host: "two"}),
				to("v1", 5),
			},
		},
	}}}})
}

func rewritten(b model.Backend, w *model.Rewrite) model.Backend {
	b.Rewrite = w
	return b
}

func TestGolden(t *testing.T) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{RequestStats: true, Tunnel: true})
			c.fill(w)
			var out bytes.Buffer
			for _, url := range slices.Sorted(maps.Keys(c.names)) {
				for _, n := range c.names[url] {
					m, ok := w.server.Build(url, n)
					if !ok {
						t.Errorf("no %s %s", url, n)
						continue
					}
					fmt.Fprintf(&out, "---\n# %s\n", rejectionKey(url, n))
					raw, err := protojson.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					var plain any // protojson's blanks are random
					if err := json.Unmarshal(raw, &plain); err != nil {
						t.Fatal(err)
					}
					text, err := yaml.Marshal(plain)
					if err != nil {
						t.Fatal(err)
					}
					out.Write(text)
				}
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != string(want) {
				a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
				for i := range a {
					if i >= len(b) || a[i] != b[i] {
						t.Fatalf("%s:%d: got %q (go test ./xds -update writes it)", file, i+1, a[i])
					}
				}
				t.Fatalf("%s is longer than what is built", file)
			}
		})
	}
}

// A real Envoy takes everything that the goldens show, asked for as it asks. The pods' namespaces are the lab's.
func TestEnvoyTakesGoldens(t *testing.T) {
	pod := labPods(t, "web")[0]
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{RequestLog: true, RequestStats: true, Tunnel: true})
			c.fill(w)
			for wl := range w.st.Workloads.All(w.st.Snapshot()) {
				here := *wl
				here.NetNS, here.Addresses = pod.NetNS, []netip.Addr{pod.Address, pod.Address6}
				put(w, w.st.Workloads, &here)
				if wl.Identity != "" {
					put(w, w.st.SVIDs, w.ca.svid(wl.Identity))
				}
			}
			// A Gateway on the loopback leads Envoy to every table; clusters are fetched for copies of a request.
			port := freePort(t)
			rule := model.Rule{Status: 200}
			for _, n := range c.names[TypeCluster] {
				if s, ok := parseServiceName(n); ok {
					rule.Mirrors = append(rule.Mirrors, model.Mirror{Backend: model.Backend{Namespace: s.namespace, Name: s.name, Port: s.port}, Numerator: 100, Denominator: 100})
				}
			}
			if len(rule.Mirrors) > 0 {
				backend(t, w, "live")
				rule.Status, rule.Backends = 0, []model.Backend{to("live", 1)}
			}
			goldenTables(w, port, c.names[TypeRoute], rule)
			e := w.envoy()
			e.until("an answer", func() error {
				a, err := trySend(port, "GET", "x", "/", nil)
				if err == nil && a.status != 200 {
					err = fmt.Errorf("status %d", a.status)
				}
				return err
			})
			e.until("everything is accepted", func() error {
				w.server.mu.Lock()
				defer w.server.mu.Unlock()
				for url, s := range w.server.cache.stores {
					for n, r := range s.resources {
						for sub := range s.subs {
							if r.version != "" && !sub.accepted(n) {
								return fmt.Errorf("%s is not accepted", rejectionKey(url, n))
							}
						}
					}
				}
				return nil
			})
			if len(rule.Mirrors) > 0 {
				e.until("the cluster that copies go to is there", func() error {
					if !w.accepted(TypeCluster, "service/shop/echo/80|plain|http1") {
						return errors.New("not yet")
					}
					return nil
				})
			}
			w.noRejections()
		})
	}
}

// goldenTables hands route tables to Envoy as those of a Gateway's ports: RDS is the same for all.
func goldenTables(w *world, port uint16, names []string, extra model.Rule) {
	gatewayWith(w, port, extra)
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
	with := *g
	for _, n := range names {
		if strings.HasPrefix(n, servicePrefix) {
			p := freePort(w.t.(*testing.T))
			with.Ports = append(with.Ports, model.GatewayPort{Port: p, Listeners: []model.GatewayListener{{Name: "t", RouteTable: strings.TrimSuffix(n, plainSuffix)}}})
		}
	}
	put(w, w.st.Gateways, &with)
}

// TestSources: what resources are built from is followed.
func TestSources(t *testing.T) {
	read := 0
	for name, c := range cases {
		w := newWorld(t, Config{RequestStats: true, Tunnel: true})
		c.fill(w)
		var followed []state.TableID
		for _, table := range sources(w.st) {
			followed = append(followed, table.ID())
		}
		for url, names := range c.names {
			for _, n := range names {
				b := &builder{st: w.st, snap: w.st.Track(), cfg: &w.server.cfg}
				kinds[url].build(b, n)
				for key := range b.snap.Reads() {
					read++
					if !slices.Contains(followed, key.Table) {
						t.Errorf("%s: %s %s is built from table %v, which is not followed", name, url, n, key.Table)
					}
				}
			}
		}
	}
	if read == 0 {
		t.Error("nothing was read")
	}
}
