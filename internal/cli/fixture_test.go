package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/envoyconfig"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/state"
)

// The fixture is read at this time. Certificates that are good end far from it, for the agent looks at the real time.
var fixedNow = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

// node has tables of its own.
type node struct {
	st    *state.State
	objs  *kube.Objects
	flows *observe.Store
	// servicemap is nil where nothing is counted.
	servicemap *servicemap.Local
}

// certify puts an SVID and the row about it.
func (n *node) certify(w *state.Write, svid *model.SVID) {
	n.st.SVIDs.Put(w, svid)
	c := &model.Certified{Identity: svid.Identity, NotAfter: svid.NotAfter}
	if !fixedNow.Before(svid.NotAfter) {
		c.Error = "no replica of the CA is known"
	}
	n.st.Certified.Put(w, c)
}

// uncertify takes the SVID of an identity away.
func (n *node) uncertify(w *state.Write, id model.Identity) {
	n.st.SVIDs.Delete(w, string(id))
	n.st.Certified.Put(w, &model.Certified{Identity: id, Error: "no replica of the CA is known"})
}

func (n *node) view() api.Node {
	loaded := make(chan struct{})
	close(loaded)
	return api.Node{
		State: n.st, Objects: n.objs, Dir: "/etc/weft", Loaded: loaded, Flows: n.flows, Map: n.servicemap, Envoy: dumped{},
		Agent: api.Agent{
			Version: "v1.2.3", Envoy: "1.40.0", Node: "worker-1", PID: 100, TrustDomain: "cluster.local",
			Started: fixedNow.Add(-5 * time.Minute),
		},
	}
}

// dumped answers as the Envoy of a demo's node did.
type dumped struct{}

func (dumped) Inspect(_ context.Context, path string) (io.ReadCloser, error) {
	name := map[string]string{envoyconfig.DumpPath: "dump.json", envoyconfig.ClustersPath: "clusters.json"}[path]
	return os.Open(filepath.Join("..", "envoyconfig", "testdata", name))
}

func (dumped) SetLogLevel(_ context.Context, logger, level string) (map[string]string, error) {
	levels := map[string]string{"http": "warning", "router": "warning"}
	if level == "loud" {
		return nil, errors.New(`Envoy has no log level "loud"`)
	}
	if level != "" {
		levels[logger] = level
	}
	return levels, nil
}

const trust = "cluster.local"

func addr(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }

// healthyNode has a shop in strict mode and a Gateway.
func healthyNode() *node {
	db := state.NewDB()
	n := &node{st: state.New(db), objs: kube.NewObjects(db), flows: observe.NewStore(100)}
	n.fillFolder()
	n.fillProxy()
	n.fillMesh()
	n.fillGateway()
	n.fillFlows()
	n.fillKernel()
	n.st.MarkSynced()
	return n
}

// fillFolder puts 12 objects.
func (n *node) fillFolder() {
	var b strings.Builder
	for i := range 12 {
		fmt.Fprintf(&b, "---\n{apiVersion: v1, kind: Namespace, metadata: {name: ns-%d}}\n", i)
	}
	if _, err := manifests.Read(n.objs, []string{"-"}, strings.NewReader(b.String())); err != nil {
		panic(err)
	}
}

func (n *node) fillProxy() {
	w := n.st.Write(n.st.Proxies, n.st.Accepted)
	defer w.Commit()
	n.st.Proxies.Put(w, &model.Proxy{
		Version: "1.40.0", State: "LIVE", PID: 200, Epoch: 2, Restarts: 1, Started: fixedNow.Add(-90 * time.Second),
	})
	n.st.Accepted.Put(w, &model.Accepted{Subject: model.Envoy})
	n.st.Accepted.Put(w, &model.Accepted{Subject: model.Subject{Kind: model.SubjectWorkload, Name: "shop/web-1"}, Revision: 1 << 20})
}

func (n *node) fillMesh() {
	st := n.st
	w := st.Write(st.Workloads, st.Services, st.Endpoints, st.RouteTables, st.SVIDs, st.Certified, st.Statuses)
	defer w.Commit()
	web := model.NewIdentity(trust, "shop", "web")
	st.Workloads.Put(w, &model.Workload{
		Namespace: "shop", Name: "web-1", ServiceAccount: "web", Addresses: addr("10.0.0.1"), Local: true,
		MTLS: model.MTLSStrict, Identity: web,
		Policy: &model.Policy{Names: []string{"shop/readers"}, Rules: []model.PolicyRule{
			{Sources: []model.PolicySource{{Identity: model.NewIdentity(trust, "shop", "app")}, {Namespace: "ops"}}, Ports: []uint16{8080}},
			{HTTP: []model.HTTPRule{{Methods: []string{"GET"}, Paths: []model.PathMatch{{Type: model.MatchPrefix, Value: "/public"}}}}},
		}},
	})
	st.Workloads.Put(w, &model.Workload{
		Namespace: "shop", Name: "app-1", ServiceAccount: "app", Addresses: addr("10.0.1.9"), MTLS: model.MTLSPermissive,
		Identity: model.NewIdentity(trust, "shop", "app"),
	})
	st.Workloads.Put(w, &model.Workload{Namespace: "plain", Name: "old-1", Addresses: addr("10.0.0.7"), Local: true, Policy: &model.Policy{Names: []string{"plain/deny"}}})
	st.Services.Put(w, &model.Service{
		Namespace: "shop", Name: "web", Addresses: addr("10.96.0.1"), Affinity: 3 * time.Hour,
		Ports: []model.ServicePort{{Name: "http", Port: 80, Protocol: model.TCP, AppProtocol: "http", L7: true}, {Name: "dns", Port: 53, Protocol: model.UDP}},
	})
	st.Services.Put(w, &model.Service{Namespace: "plain", Name: "db", Addresses: addr("fd00::5"), Ports: []model.ServicePort{{Port: 5432, Protocol: model.TCP}}})
	st.Endpoints.Put(w, &model.Endpoints{Service: "shop/web", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Workload: "shop/web-1", MTLS: model.MTLSStrict, Identity: web, Node: "worker-1"},
		{Address: netip.MustParseAddrPort("10.0.0.2:8080"), Terminating: true},
	}})
	st.Endpoints.Put(w, &model.Endpoints{Service: "plain/db", Port: 5432, Protocol: model.TCP})
	st.RouteTables.Put(w, routes())
	n.certify(w, &model.SVID{
		Identity: web, Serial: "1a2b", KeyPEM: []byte("SECRET"), NotBefore: fixedNow.AddDate(-10, 0, 0), NotAfter: fixedNow.AddDate(70, 0, 0),
	})
	st.Statuses.Put(w, &model.Status{Object: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "canary"}, Parents: []model.ParentStatus{{
		Parent: model.ObjectRef{Kind: "Service", Namespace: "shop", Name: "web"}, Port: 80,
		Conditions: []model.Condition{
			{Type: "Accepted", Status: true, Reason: "Accepted"},
			{Type: "ResolvedRefs", Reason: "BackendNotFound", Message: "Service shop/web-v9: not found"},
		},
	}}})
}

func routes() *model.RouteTable {
	second, full := 10*time.Second, "/new"
	route := model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "canary"}
	return &model.RouteTable{Name: model.ServiceTable("shop", "web", 80), VirtualHosts: []model.VirtualHost{{
		Hosts: []string{"*"},
		Rules: []model.Rule{
			{
				Route: route, Index: 1, Name: "beta", CallerNamespace: "ops", Timeout: &second,
				Match: model.Match{
					Path: model.PathMatch{Type: model.MatchPrefix, Value: "/api"}, Method: "GET",
					Headers: []model.ValueMatch{{Name: "x-user", Type: model.MatchExact, Value: "alice"}},
					Query:   []model.ValueMatch{{Name: "v", Type: model.MatchRegex, Value: "[0-9]+"}},
				},
				RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-a", Value: "1\x1b[31m"}}, Remove: []string{"x-b"}},
				Rewrite:        &model.Rewrite{Host: "web.internal", Path: &model.PathChange{Prefix: &full}},
				Mirrors:        []model.Mirror{{Backend: model.Backend{Namespace: "shop", Name: "shadow", Port: 80}, Numerator: 5, Denominator: 100}},
				Retry:          &model.Retry{Codes: []int{502, 503}, Attempts: 3},
				Backends:       []model.Backend{{Namespace: "shop", Name: "web-v2", Port: 80, Weight: 1}},
			},
			{Route: route, Index: 2, Match: model.Match{Path: model.PathMatch{Type: model.MatchExact, Value: "/old"}}, Redirect: &model.Redirect{Scheme: "https", Path: &model.PathChange{Full: &full}, Status: 301}},
			{Route: route, Match: model.Match{GRPC: true}, Backends: []model.Backend{
				{Namespace: "shop", Name: "web-v1", Port: 80, Weight: 90}, {Namespace: "shop", Name: "web-v9", Port: 80, Weight: 10, Invalid: true},
			}},
			{Route: route, Index: 3, Status: 404},
		},
	}}}
}

func (n *node) fillGateway() {
	st := n.st
	w := st.Write(st.Gateways, st.Certificates, st.Statuses, st.SVIDs, st.Certified, st.Bundles)
	defer w.Commit()
	id := model.NewIdentity(trust, "edge", "public")
	st.Gateways.Put(w, &model.Gateway{Namespace: "edge", Name: "public", Addresses: addr("192.0.2.1"), Identity: id, Tracing: &model.Tracing{
		Policy:    model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "gateway.networking.x-k8s.io", Kind: "XTelemetryPolicy", Namespace: "edge", Name: "spans"}},
		Collector: &model.Collector{Namespace: "observability", Service: "otel", Port: 4317, Headers: []model.SecretHeader{{Name: "authorization", Value: "hidden"}}},
		Sampling:  new(12.5),
	}, Ports: []model.GatewayPort{
		{Port: 80, Listeners: []model.GatewayListener{{Name: "http", RouteTable: model.GatewayTable("edge", "public", 80, "")}}},
		{Port: 443, TLS: true, Listeners: []model.GatewayListener{{
			Name: "https", Hostname: "*.example.com", RouteTable: model.GatewayTable("edge", "public", 443, "https"), Certificates: []string{"edge/tls"},
		}}},
		{Port: 53, UDP: true, Listeners: []model.GatewayListener{{Name: "dns", Streams: []model.GatewayStream{
			{Route: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "UDPRoute", Namespace: "edge", Name: "dns"}},
		}}}},
	}})
	n.certify(w, &model.SVID{Identity: id, Serial: "3c", NotBefore: fixedNow.AddDate(-10, 0, 0), NotAfter: fixedNow.AddDate(70, 0, 0)})
	st.Certificates.Put(w, &model.Certificate{Namespace: "edge", Name: "tls", ChainPEM: []byte(leaf), KeyPEM: []byte("SECRET")})
	st.Certificates.Put(w, &model.Certificate{Namespace: "edge", Name: "broken", ChainPEM: []byte("nothing"), KeyPEM: []byte("SECRET")})
	st.Bundles.Put(w, &model.Bundle{TrustDomain: trust, PEM: []byte(leaf)})
	st.Statuses.Put(w, &model.Status{
		Object: model.ObjectRef{Kind: "Gateway", Namespace: "edge", Name: "public"}, Addresses: []string{"192.0.2.1"},
		Conditions: []model.Condition{{Type: "Programmed", Status: true, Reason: "Programmed"}},
		Listeners: []model.ListenerStatus{{Name: "http", SupportedKinds: []string{"HTTPRoute"}, AttachedRoutes: 2, Conditions: []model.Condition{
			{Type: "Accepted", Status: true, Reason: "Accepted"},
		}}},
	})
}

func (n *node) fillKernel() {
	w := n.st.Write(n.st.Programmed, n.st.MapUsage)
	defer w.Commit()
	for _, name := range []string{"connect4", "connect6", "sk_lookup/shop/web-1"} {
		n.st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: model.SubjectHook, Name: name}})
	}
	n.st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: model.SubjectWorkload, Name: "shop/web-1"}, Revision: 1})
	n.st.MapUsage.Put(w, &model.MapUsage{Name: "frontends", Entries: 3, Max: 65536})
	n.st.MapUsage.Put(w, &model.MapUsage{Name: "events", Max: 1 << 20})
}

func (n *node) fillFlows() {
	r := observe.NewResolver(n.st)
	at := fixedNow
	add := func(f observe.Flow) {
		at = at.Add(1500 * time.Millisecond)
		f.Time, f.Protocol = at, model.TCP
		n.flows.Add(f)
	}
	app, web := r.Peer(netip.MustParseAddrPort("10.0.1.9:40000")), r.Peer(netip.MustParseAddrPort("10.0.0.1:8080"))
	web.Service, web.Labels = "shop/web", map[string]string{"app": "web", "tier": "front"}
	add(observe.Flow{Source: app, Destination: web, Verdict: observe.Forwarded, Layer: observe.L7, Sent: 300, Received: 40 << 10,
		Duration: 12345 * time.Microsecond, HTTP: &observe.Request{Method: "GET", Host: "web", Path: "/api", Status: 200}})
	add(observe.Flow{Source: observe.Peer{Address: netip.MustParseAddrPort("192.0.2.77:1234")}, Destination: web, Verdict: observe.Refused,
		Layer: observe.L4, Reason: "strict: not authenticated"})
	proven, db := app, r.Peer(netip.MustParseAddrPort("[fd00::5]:5432"))
	proven.Identity, db.Identity = "spiffe://cluster.local/ns/shop/sa/app", "spiffe://cluster.local/ns/plain/sa/db"
	add(observe.Flow{Source: proven, Destination: db, SeenAt: observe.AtSource, Open: true, Verdict: observe.Forwarded, Layer: observe.MTLS})
	add(observe.Flow{Source: app, Destination: r.Peer(netip.MustParseAddrPort("[fd00::5]:5432")), Verdict: observe.Forwarded, Layer: observe.L4,
		Sent: 64 << 20, Received: 100, RTT: 85 * time.Microsecond, Retransmits: 2, Duration: 3 * time.Second})
}

// sickNode has something wrong in every part.
func sickNode() *node {
	n := healthyNode()
	st := n.st
	w := st.Write(n.objs.Problems, st.Proxies, st.Accepted, st.SVIDs, st.Certified, st.Rejections, st.Statuses, st.Programmed, st.MapUsage, st.Lost, st.Exports)
	defer w.Commit()
	for _, p := range []*kube.Problem{
		{File: "canary.yaml", Line: 12, Object: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "canary"}, Reason: `unknown field "spec.ruels"`},
		{File: "huge.yaml", Reason: "is larger than 16777216 bytes"},
	} {
		n.objs.Problems.Put(w, p)
	}
	st.Proxies.Put(w, &model.Proxy{Error: "weft proxy does not run"})
	st.Accepted.Delete(w, model.Envoy.Key())
	st.Programmed.Put(w, &model.Programmed{
		Subject: model.Subject{Kind: model.SubjectHook, Name: "connect4"}, Error: "the program was detached; it was put right", Repairs: 1,
	})
	st.Programmed.Put(w, &model.Programmed{
		Subject: model.Subject{Kind: model.SubjectService, Name: "shop/web"}, Error: "port shop/web/80/TCP: map slots: the map is full at 4 entries",
	})
	st.MapUsage.Put(w, &model.MapUsage{Name: "slots", Entries: 4, Max: 4})
	st.Lost.Put(w, &model.Lost{Source: model.LostKernelRing, Count: 7})
	st.Exports.Put(w, &model.Export{To: model.ExportStdout})
	st.Exports.Put(w, &model.Export{To: model.ExportFile, Target: "/var/log/flows.json", Error: "open /var/log/flows.json: permission denied", Since: time.Unix(0, 0)})
	n.uncertify(w, model.NewIdentity(trust, "edge", "public"))
	n.certify(w, &model.SVID{Identity: model.NewIdentity(trust, "shop", "web"), Serial: "1a2b", NotBefore: time.Unix(0, 0), NotAfter: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)})
	st.Rejections.Put(w, &model.Rejection{Resource: "RouteConfiguration/service/shop/web/80", Message: "invalid regex", Objects: []model.ObjectVersion{
		{ObjectRef: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: "canary"}},
	}})
	st.Rejections.Put(w, &model.Rejection{Resource: "Listener/shop/web-1/hbone", Message: "no such namespace", Objects: []model.ObjectVersion{
		{ObjectRef: model.ObjectRef{Kind: "Pod", Namespace: "shop", Name: "web-1"}},
	}})
	st.Statuses.Put(w, &model.Status{
		Object: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "Gateway", Namespace: "edge", Name: "new"},
		Conditions: []model.Condition{
			{Type: "Accepted", Status: true, Reason: "Accepted"},
			{Type: "Programmed", Reason: "AddressNotAssigned", Message: "there is no AddressPool; create one with addresses that lead to the nodes"},
		},
	})
	return n
}

// serve answers for a node on a socket and gives the run directory.
func serve(t *testing.T, n *node) string {
	t.Helper()
	run, err := os.MkdirTemp("", "weft") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, api.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: api.Handler(n.view())}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done; os.RemoveAll(run) })
	return run
}
