package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/hubble/relay"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/traffic"
)

// talking is a node whose agent has counted a connection.
func talking(t *testing.T) (run string) {
	t.Helper()
	n := healthyNode()
	connections := traffic.NewConnections(n.st)
	connections.Opened(&observe.Flow{
		SeenAt: observe.AtSource, Source: observe.Peer{Workload: "shop/gone", Identity: "spiffe://t/ns/shop/sa/app"},
		Destination: observe.Peer{Service: "shop/web", Identity: "spiffe://t/ns/shop/sa/web"},
	})
	requests := traffic.NewRequests(n.st, func(context.Context) (*model.RequestStats, error) { return &model.RequestStats{}, nil })
	datagrams := traffic.NewDatagrams(n.st)
	datagrams.Ended(&observe.Flow{
		SeenAt: observe.AtSource, Source: observe.Peer{Workload: "shop/gone"}, Destination: observe.Peer{Service: "kube-system/dns"}, DNS: &observe.DNS{},
	})
	n.servicemap = servicemap.NewLocal(n.st, n.flows, requests, connections, datagrams)
	return serve(t, n)
}

func TestEdges(t *testing.T) {
	socket := talking(t)
	for format, want := range map[string]string{
		"table": `FROM           TO                MTLS   REQ/S   ERR/S   P50      P99      CONN/S   FAILED/S   UDP/S   DNS/S   REFUSED/S
shop/unknown   kube-system/dns   none   0       0       <none>   <none>   0        0          0       0       0
shop/unknown   shop/web          all    0       0       <none>   <none>   0        0          0       0       0
`,
		"dot": `digraph weft {
  rankdir=LR; node [shape=box];
  subgraph "cluster_kube-system" {
    label="kube-system";
    "kube-system/Service/dns" [label="dns (Service)"];
  }
  subgraph "cluster_shop" {
    label="shop";
    "shop//" [label="unknown"];
    "shop/Service/web" [label="web (Service)"];
  }
  "shop//" -> "kube-system/Service/dns" [label="idle", style=dashed];
  "shop//" -> "shop/Service/web" [label="idle", style=solid];
}
`,
	} {
		out, err := run(t, "edges", "--run", socket, "--for", "1ms", "-o", format)
		if err != nil || cmp.Diff(want, out) != "" {
			t.Errorf("%s: %v\n%s", format, err, cmp.Diff(want, out))
		}
	}
	out, err := run(t, "top", "--run", socket, "--for", "1ms")
	if err != nil || out != "No traffic.\n" { // nothing came since somebody looks
		t.Errorf("top: %v: %s", err, out)
	}
	if _, err := run(t, "top", "--run", socket, "--by", "name"); err == nil || !strings.Contains(err.Error(), `--by "name" is none of bytes, `) {
		t.Errorf("an unknown order: %v", err)
	}
	out, err = run(t, "edges", "--run", socket, "--for", "1ms", "-o", "json")
	var g servicemap.Graph
	if err != nil || json.Unmarshal([]byte(out), &g) != nil || len(g.Edges) != 2 || len(g.Nodes) != 3 {
		t.Errorf("JSON: %v: %s", err, out)
	}
	if _, err := run(t, "edges", "--run", serve(t, healthyNode())); err == nil || !strings.Contains(err.Error(), "counts no traffic") {
		t.Errorf("an agent that counts nothing: %v", err)
	}
	for _, args := range []string{"map --run " + t.TempDir(), "map --run " + serve(t, healthyNode()), "map --server 127.0.0.1:1 --server-ca " + rootFile(t) + " --token-file " + os.DevNull} {
		if out, err := run(t, strings.Fields(args)...); err == nil || strings.Contains(out, "http://") {
			t.Errorf("weft %s: %v: %s", args, err, out)
		}
	}
	if _, err := run(t, "map", "--run", socket, "--address", "0.0.0.0:0"); err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("an address that others reach: %v", err)
	}
}

// TestMap serves the map of an agent, and that of the controllers in the user's name.
func TestMap(t *testing.T) {
	address, root := mapAPI(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"agent":  {[]string{"--run", talking(t)}, `"id":"shop/Service/web"`},
		"server": {[]string{"--server", address, "--server-ca", root, "--token-file", token}, `"missing":["gone"]`},
		"cluster": {
			[]string{"--server", "cluster", "--kubeconfig", controllerAt(t, map[string]string{"15025": address}), "--server-ca", root, "--token-file", token},
			`"missing":["gone"]`,
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		cmd := newRoot(Options{}, nil)
		cmd.SetOut(w)
		cmd.SetArgs(append([]string{"map"}, tc.args...))
		done := make(chan error, 1)
		go func() { done <- w.CloseWithError(cmd.ExecuteContext(ctx)) }()
		line := make([]byte, 200)
		n, err := r.Read(line)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		_, url, _ := strings.Cut(string(line[:n]), " is at ")
		url, _, _ = strings.Cut(url, "\n")
		url, secret, _ := strings.Cut(url, "#token=")
		for _, ask := range []struct {
			token  string
			status int
			want   string
		}{{secret, http.StatusOK, tc.want}, {"shop", http.StatusUnauthorized, "the token is not that of this page"}} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"v1/map", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+ask.token)
			res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != ask.status || !bytes.Contains(body, []byte(ask.want)) {
				t.Errorf("%s: %s %s", name, res.Status, body)
			}
		}
		cancel()
		<-done
	}
}

// rootFile is a file with a certificate.
func rootFile(t *testing.T) string {
	_, text := selfSigned(t, "weft-flows.weft-system.svc")
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// mapAPI serves the service map of a cluster whose only agent does not answer, and returns its address and a file with its
// root.
func mapAPI(t *testing.T) (address, root string) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	server := relay.NewServer(relay.Config{Nodes: relay.NewNodes(func() []string { return []string{"gone"} }, log), Access: shopOnly{}, Log: log})
	certificate, text := selfSigned(t, "weft-flows.weft-system.svc")
	root = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(root, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- server.ServeMap(ctx, l, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), root
}
