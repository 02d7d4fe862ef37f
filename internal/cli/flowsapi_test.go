package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/hubble/relay"
	"github.com/weft-mesh/weft/internal/kube/access"
	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// shopOnly lets the bearer of the token "shop" see that namespace, and of "admin" all.
type shopOnly struct{}

func (shopOnly) Review(_ context.Context, _, token string) (string, bool, []string, error) {
	switch token {
	case "admin":
		return token, true, nil, nil
	case "shop":
		return token, false, []string{"shop"}, nil
	}
	return "", false, nil, access.ErrToken
}

// buffered is a connection of which something was read already.
type buffered struct {
	net.Conn
	from *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.from.Read(p) }

// flowsAPI serves the flows of nodes, and the rows of those that have some, and returns its address and a file with its root.
func flowsAPI(t *testing.T, stores map[string]*observe.Store, rows map[string]*node) (address, root string) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	expected := []string{"gone"}
	for node := range stores {
		expected = append(expected, node)
	}
	nodes := relay.NewNodes(func() []string { return slices.Clone(expected) }, log)
	agents := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { nodes.Serve(w, r, r.Header.Get("Node")) }))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(stores)+1)
	connected := make(chan struct{}, len(stores))
	for node, flows := range stores {
		up := &hubble.Uplink{
			Observer: hubble.NewObserver(hubble.Config{Node: node, State: state.New(state.NewDB()), Flows: flows, Started: time.Now()}), Log: log,
			Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
				if err != nil {
					return nil, err
				}
				fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\nNode: %s\r\n\r\n", hubble.Protocol, node)
				in := bufio.NewReader(conn)
				_, err = http.ReadResponse(in, nil)
				connected <- struct{}{}
				return &buffered{conn, in}, err
			},
			Replicas: func(ctx context.Context, now func([]netip.AddrPort)) error {
				now([]netip.AddrPort{netip.MustParseAddrPort(agents.Listener.Addr().String())})
				<-ctx.Done()
				return nil
			},
		}
		if n := rows[node]; n != nil {
			view := n.view()
			view.Agent.Node = node
			up.Map, up.Rows = n.servicemap, func(s grpc.ServiceRegistrar) { api.Register(s, view) }
		}
		go func() { done <- up.Run(ctx) }()
	}
	certificate, text := selfSigned(t, "weft-flows.weft-system.svc")
	root = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(root, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := relay.NewServer(relay.Config{Nodes: nodes, Access: shopOnly{}, ConfigAccess: shopOnly{}, Log: log})
	go func() {
		done <- server.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	}()
	t.Cleanup(func() {
		cancel()
		for range len(stores) + 1 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		agents.Close()
	})
	for range stores {
		<-connected
	}
	return l.Addr().String(), root
}

func selfSigned(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// at is a request that ended so many seconds after noon.
func at(second int, from, to string, status int) observe.Flow {
	return observe.Flow{
		Time: time.Date(2030, 5, 1, 12, 0, second, 0, time.UTC), Protocol: model.TCP, Layer: observe.L7, Verdict: observe.Forwarded,
		Source:      observe.Peer{Address: netip.MustParseAddrPort("10.0.1.9:40000"), Workload: from, Identity: "spiffe://t/ns/x/sa/y"},
		Destination: observe.Peer{Address: netip.MustParseAddrPort("10.0.2.5:8080"), Workload: to, Service: "store/web"},
		SeenAt:      observe.AtSource, Sent: 10, Received: 20, Duration: time.Millisecond,
		HTTP: &observe.Request{Method: "GET", Host: "web", Path: fmt.Sprintf("/%d", second), Status: status},
	}
}

// TestObserveByFlowsAPI asks the flows API as a user with a token, and finds what agents would have said.
func TestObserveByFlowsAPI(t *testing.T) {
	n1, n2 := observe.NewStore(100), observe.NewStore(100)
	n1.Add(at(1, "shop/app-1", "store/web-1", 200))
	n2.Add(at(2, "bank/app-1", "store/web-1", 404))
	n2.AddLost(2)
	n1.Add(at(3, "shop/app-1", "store/web-1", 503))
	n2.Add(at(4, "bank/app-1", "shop/db-1", 200))
	address, root := flowsAPI(t, map[string]*observe.Store{"n1": n1, "n2": n2}, nil)
	tokens := t.TempDir()
	run := func(token, args string) (string, string, error) {
		t.Helper()
		file := filepath.Join(tokens, token)
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := New(Options{})
		var out, errs bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errs)
		cmd.SetArgs(append(strings.Fields("observe "+args), "--server", address, "--server-ca", root, "--token-file", file))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), errs.String(), err
	}
	until := time.Now().Add(20 * time.Second)
	for { // a connection is known a moment after it is made
		if _, errs, _ := run("admin", ""); strings.HasPrefix(errs, "gone: ") || time.Now().After(until) {
			break
		}
	}
	const (
		line1 = "n1  12:00:01.000  forwarded  L7    shop/app-1:40000 -> store/web-1:8080 (store/web)  GET web/1 200, 10 B out, 20 B in, took 1ms\n"
		line2 = "n2  12:00:02.000  forwarded  L7    bank/app-1:40000 -> store/web-1:8080 (store/web)  GET web/2 404, 10 B out, 20 B in, took 1ms\n"
		lost  = "n2  -- 2 flows were lost here --\n"
		line3 = "n1  12:00:03.000  forwarded  L7    shop/app-1:40000 -> store/web-1:8080 (store/web)  GET web/3 503, 10 B out, 20 B in, took 1ms\n"
		line4 = "n2  12:00:04.000  forwarded  L7    bank/app-1:40000 -> shop/db-1:8080 (store/web)  GET web/4 200, 10 B out, 20 B in, took 1ms\n"
	)
	for _, c := range []struct{ token, args, want string }{
		{"admin", "", line1 + line2 + line3 + lost + line4},
		{"shop", "", line1 + line3 + lost + line4},
		{"admin", "--last 2", line3 + lost + line4},
		{"admin", "--last 1 --status 404,5xx", line3 + lost},
		{"admin", "--node n1", line1 + line3},
		{"admin", "-n bank --status !2xx", line2 + lost},
		{"admin", "--from !bank/ --method get --verdict forwarded --protocol TCP --path /3", line3 + lost},
		{"admin", "--since 2030-05-01T12:00:02Z --until 2030-05-01T12:00:03Z --to store/web-1", line2 + lost + line3},
	} {
		out, errs, err := run(c.token, c.args)
		if want := "gone: flows are missing: no connection to the agent\n"; out != c.want || errs != want || err == nil {
			t.Errorf("%s, as %s: error %v, %s\n%swant\n%s", c.args, c.token, err, errs, out, c.want)
		}
	}
	if _, _, err := run("nobody", ""); err == nil || !strings.Contains(err.Error(), "Unauthenticated: the token is not one") {
		t.Errorf("an unknown token: %v", err)
	}
}

// TestAbsentNodes: a reader that follows learns when the flows of a node come again, and hears nothing of nodes that were there.
func TestAbsentNodes(t *testing.T) {
	var out strings.Builder
	away := absentNodes{}
	for _, s := range []*relaypb.NodeStatusEvent{
		nil,
		{StateChange: relaypb.NodeState_NODE_CONNECTED, NodeNames: []string{"n1"}},
		{StateChange: relaypb.NodeState_NODE_UNAVAILABLE, NodeNames: []string{"n2", "n3"}, Message: "no answer within 10s"},
		{StateChange: relaypb.NodeState_NODE_CONNECTED, NodeNames: []string{"n2"}},
		{StateChange: relaypb.NodeState_NODE_CONNECTED, NodeNames: []string{"n2"}},
	} {
		away.note(s, &out)
	}
	want := "n2: flows are missing: no answer within 10s\nn3: flows are missing: no answer within 10s\nn2: flows come again\n"
	if out.String() != want || !away["n3"] || len(away) != 1 {
		t.Errorf("%q, away %v; want %q, away n3", &out, away, want)
	}
}

// controllerAt returns the kubeconfig of an API server that forwards ports of a controller's pod to addresses.
func controllerAt(t *testing.T, ports map[string]string) (kubeconfig string) {
	t.Helper()
	const ready, waiting = "weft-controller-2", "weft-controller-1"
	s := &surveytest.Server{Ports: map[string]string{}, Objects: map[string]any{}}
	for port, address := range ports {
		s.Ports["weft-system/"+ready+":"+port] = address
	}
	pod := func(name, isReady string) any {
		return object{
			"metadata": surveytest.Meta("weft-system", name, object{"app.kubernetes.io/component": "controller"}, nil),
			"spec":     object{"nodeName": "worker-1"},
			"status":   object{"conditions": []any{object{"type": "Ready", "status": isReady}}},
		}
	}
	s.Objects["/api/v1/namespaces/weft-system/pods"] = []any{pod(waiting, "False"), pod(ready, "True")}
	s.Objects["/api/v1/namespaces/none/pods"] = []any{}
	return writeKubeconfig(t, s.Start(t))
}

// TestServerInCluster asks the flows API by a port that the API server forwards.
func TestServerInCluster(t *testing.T) {
	flows := observe.NewStore(10)
	flows.Add(at(1, "shop/app-1", "store/web-1", 200))
	address, root := flowsAPI(t, map[string]*observe.Store{"n1": flows}, nil)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("admin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	kubeconfig := controllerAt(t, map[string]string{"15024": address})
	for namespace, want := range map[string]string{"weft-system": "GET web/1 200", "none": "no controller of Weft in namespace none is ready"} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := New(Options{})
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs([]string{"observe", "--server", "cluster", "--kubeconfig", kubeconfig, "--mesh-namespace", namespace, "--server-ca", root, "--token-file", token})
		until := time.Now().Add(20 * time.Second)
		for { // an agent is known a moment after it has connected
			err := cmd.ExecuteContext(ctx)
			if text := fmt.Sprint(out.String(), err); strings.Contains(text, want) {
				break
			} else if time.Now().After(until) {
				t.Fatalf("%s: no %q in %s", namespace, want, text)
			}
		}
		cancel()
	}
}
