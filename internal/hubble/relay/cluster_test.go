package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/access"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rights are those of the bearers of tokens: nil for all namespaces.
type rights struct {
	mu sync.Mutex
	of map[string][]string
}

func (r *rights) Review(_ context.Context, _, token string) (string, bool, []string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	namespaces, known := r.of[token]
	if !known {
		return "", false, nil, access.ErrToken
	}
	return "user-" + token, namespaces == nil, namespaces, nil
}

func (r *rights) set(token string, namespaces []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[token] = namespaces
}

// cluster is a relay with the real connections of nodes and of clients.
type cluster struct {
	t       *testing.T
	server  *Server
	rights  *rights
	config  *rights          // to rows
	agents  *httptest.Server // where agents connect
	address string           // of the API
	ca      string           // file with its root
	roots   *x509.CertPool

	certificate tls.Certificate         // of the API
	effort      time.Duration           // of the filters of a request, at agents that start later
	link        func(net.Conn) net.Conn // what the connections of agents that start later go through

	mu       sync.Mutex
	expected []string
}

func newCluster(t *testing.T, times Times) *cluster {
	c := &cluster{t: t, rights: &rights{of: map[string][]string{"admin": nil, "shop": {"shop"}, "nobody": {}}}, config: &rights{of: map[string][]string{}}, roots: x509.NewCertPool()}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	nodes := NewNodes(func() []string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Clone(c.expected)
	}, log)
	c.server = NewServer(Config{Nodes: nodes, Access: c.rights, ConfigAccess: c.config, Version: "v1.2.3", Times: times, Log: log})
	c.agents = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { nodes.Serve(w, r, r.Header.Get("Node")) }))
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // it has a certificate for 127.0.0.1 and example.com
	certified.Close()
	c.roots.AddCert(certified.Certificate())
	c.certificate = certified.TLS.Certificates[0]
	c.ca = filepath.Join(t.TempDir(), "ca.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})
	if err := os.WriteFile(c.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- c.server.Serve(ctx, l, &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS13})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.agents.Close()
	})
	return c
}

// agent is that of a node.
type agent struct {
	flows       *observe.Store
	connections *traffic.Connections
	stop        func()
}

// agent starts one, and waits until it is connected.
func (c *cluster) agent(node string) *agent {
	c.t.Helper()
	return c.agentWith(node, func(server grpc.ServiceRegistrar) {
		db := state.NewDB()
		st := state.New(db)
		w := st.Write(st.Workloads, st.Services)
		for _, key := range []string{"shop/app", "store/web"} {
			ns, name := model.SplitKey(key)
			st.Services.Put(w, &model.Service{Namespace: ns, Name: name})
			st.Workloads.Put(w, &model.Workload{Namespace: ns, Name: name + "-1", Local: true})
		}
		w.Commit()
		api.Register(server, api.Node{State: st, Objects: kube.NewObjects(db), Agent: api.Agent{Node: node}})
	})
}

// agentWith starts an agent that serves its rows as given.
func (c *cluster) agentWith(node string, rows func(grpc.ServiceRegistrar)) *agent {
	c.t.Helper()
	st := state.New(state.NewDB())
	w := st.Write(st.Workloads)
	st.Workloads.Put(w, &model.Workload{Namespace: "shop", Name: "app-1", Labels: map[string]string{"app": "app"}, Owner: model.Owner{Kind: "Deployment", Name: "app"}})
	st.Workloads.Put(w, &model.Workload{Namespace: "store", Name: "web-1", Labels: map[string]string{"app": "web"}})
	w.Commit()
	a := &agent{flows: observe.NewStore(1000), connections: traffic.NewConnections(st)}
	requests := traffic.NewRequests(st, func(context.Context) (*model.RequestStats, error) { return &model.RequestStats{}, nil })
	link := c.link
	up := &hubble.Uplink{
		Rows:     rows,
		Map:      servicemap.NewLocal(st, a.flows, requests, a.connections),
		Observer: hubble.NewObserver(hubble.Config{Node: node, Version: "v1.2.3", State: st, Flows: a.flows, Started: time.Now(), Effort: c.effort}),
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			conn, err := dial(ctx, to, node)
			if err != nil || link == nil {
				return conn, err
			}
			return link(conn), nil
		},
		Replicas: func(ctx context.Context, now func([]netip.AddrPort)) error {
			now([]netip.AddrPort{netip.MustParseAddrPort(c.agents.Listener.Addr().String())})
			<-ctx.Done()
			return nil
		},
		Log: slog.New(slog.NewTextHandler(c.t.Output(), nil)),
	}
	c.mu.Lock()
	if !slices.Contains(c.expected, node) {
		c.expected = append(c.expected, node)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- up.Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	c.t.Cleanup(a.stop)
	c.await("the agent of "+node, func() bool { return !slices.Contains(c.server.cfg.Nodes.missing(), node) })
	return a
}

// await waits until the connections are as wanted.
func (c *cluster) await(what string, is func() bool) {
	c.t.Helper()
	for {
		_, changed := c.server.cfg.Nodes.now()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			c.t.Fatal("in vain: ", what)
		}
	}
}

// dial opens the connection of an agent, without the CA's authentication.
func dial(ctx context.Context, to netip.AddrPort, node string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\nNode: %s\r\n\r\n", hubble.Path, hubble.Protocol, node)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return nil, fmt.Errorf("%v, error %w", res, err)
	}
	return &read{conn, in}, nil
}

// conn is a connection of a client.
func (c *cluster) conn() *grpc.ClientConn {
	c.t.Helper()
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: c.roots})))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *cluster) as(token string) context.Context {
	return metadata.AppendToOutgoingContext(c.t.Context(), "authorization", "Bearer "+token)
}

// get returns what a request without follow is answered.
func (c *cluster) get(token string, r *observerpb.GetFlowsRequest) ([]*observerpb.GetFlowsResponse, error) {
	c.t.Helper()
	in, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as(token), r)
	if err != nil {
		return nil, err
	}
	var out []*observerpb.GetFlowsResponse
	for {
		m, err := in.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return out, err
		}
		out = append(out, m)
	}
}

// begin is when the first second of tests begins: recent, for a list of namespaces covers an hour.
var begin = time.Now().Truncate(time.Second).Add(-time.Minute).UTC()

// flow is a request from shop/app-1 that ended so many seconds after begin.
func flow(second int, to string, status int) observe.Flow {
	return observe.Flow{
		Time: begin.Add(time.Duration(second) * time.Second), Protocol: model.TCP, Layer: observe.L7, Verdict: observe.Forwarded,
		Source:      observe.Peer{Address: netip.MustParseAddrPort("10.0.1.9:40000"), Workload: "shop/app-1", Identity: "spiffe://t/ns/shop/sa/app"},
		Destination: observe.Peer{Address: netip.MustParseAddrPort("10.0.2.5:8080"), Workload: to, Service: "store/web", Identity: "spiffe://t/ns/store/sa/web"},
		SeenAt:      observe.AtSource, Duration: 12 * time.Millisecond,
		HTTP: &observe.Request{Method: "GET", Host: "web", Path: fmt.Sprintf("/%d", second), Status: status},
	}
}

// within is a flow that has nothing to do with shop.
func within(second int) observe.Flow {
	f := flow(second, "bank/vault-1", 200)
	f.Source.Workload, f.Source.Identity, f.Destination.Service = "bank/teller-1", "", "bank/vault"
	return f
}

func refused(second int) observe.Flow {
	f := flow(second, "store/web-1", 0)
	f.HTTP, f.Layer, f.Verdict, f.SeenAt = nil, observe.MTLS, observe.Refused, observe.AtDestination
	f.Reason, f.Policies = "no policy allows it", []string{"store/vault"}
	return f
}

// resolved is a question of shop/app-1 to DNS, answered with a code; "" is no answer.
func resolved(second int, code string) observe.Flow {
	f := flow(second, "kube-system/dns-1", 0)
	f.HTTP, f.Protocol, f.Source.Identity, f.Destination.Identity, f.Duration = nil, model.UDP, "", "", 2*time.Millisecond
	f.Destination.Address, f.Destination.Service = netip.MustParseAddrPort("10.0.3.1:53"), "kube-system/dns"
	f.DNS = &observe.DNS{Name: "web.store.svc", Type: "AAAA", Code: code}
	if code == "" {
		f.Verdict, f.Reason = observe.Failed, "no answer within 5s"
	}
	return f
}
