package xds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

const testDomain = "td.test"

// world is a Server with tables that a test fills, and real Envoys on it.
type world struct {
	t      testing.TB
	st     *state.State
	server *Server
	dir    string
	ca     *testCA
	mu     sync.Mutex
	flows  []*Flow
	stop   func() // ends the server
}

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "xds") // short: socket paths have a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, st: state.New(state.NewDB()), dir: dir, ca: newTestCA(t)}
	cfg.Node, cfg.TrustDomain = "n1", testDomain
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	cfg.AccessLog = func(f *Flow) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.flows = append(w.flows, f)
	}
	w.server = New(w.st, cfg)
	put(w, w.st.Bundles, &model.Bundle{TrustDomain: testDomain, PEM: w.ca.pem()})
	w.serve()
	w.st.MarkSynced()
	return w
}

// serve runs the server until w.stop, or the end of the test.
func (w *world) serve() {
	l, err := net.Listen("unix", filepath.Join(w.dir, "xds.sock"))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, l) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

func put[T any](w *world, table *state.Table[T], objects ...T) {
	tx := w.st.Write(table)
	for _, o := range objects {
		table.Put(tx, o)
	}
	tx.Commit()
}

func remove[T any](w *world, table *state.Table[T], key string) {
	tx := w.st.Write(table)
	table.Delete(tx, key)
	tx.Commit()
}

// envoy starts a real Envoy on the server and waits until it is ready.
func (w *world) envoy() *envoy {
	w.t.Helper()
	bin := testenv.Envoy(w.t)
	e := &envoy{t: w.t, admin: filepath.Join(w.dir, "admin.sock")}
	config := filepath.Join(w.dir, "envoy.json")
	if err := os.WriteFile(config, []byte(w.bootstrap(e.admin)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "1", "--log-level", envoyLogLevel())
	cmd.Stdout, cmd.Stderr = &e.log, &e.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if w.t.Failed() || testing.Verbose() {
			w.t.Logf("Envoy's log:\n%s", e.log.String())
		}
	})
	e.until("Envoy is ready", func() error {
		select {
		case err := <-ended:
			ended <- err
			w.t.Fatalf("Envoy ended: %v", err)
		default:
		}
		body, err := e.get("/ready")
		if err == nil && !strings.Contains(body, "LIVE") {
			err = errors.New(body)
		}
		return err
	})
	return e
}

func (w *world) bootstrap(admin string) string {
	return fmt.Sprintf(`{
 "node": {"id": "n1", "cluster": "weft"},
 "admin": {"address": {"pipe": {"path": %q}}},
 "bootstrap_extensions": [{"name": "internal", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}],
 "layered_runtime": {"layers": [{"name": "weft", "static_layer": {"re2.max_program_size.error_level": 10000}},
  {"name": "limits", "rtds_layer": {"name": "limits", "rtds_config": {"ads": {}, "resource_api_version": "V3"}}}]},
 "cluster_manager": {"enable_deferred_cluster_creation": true},
 "dynamic_resources": {
  "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
  "lds_config": {"ads": {}, "resource_api_version": "V3"}, "cds_config": {"ads": {}, "resource_api_version": "V3"}},
 "static_resources": {"clusters": [{"name": "xds", "type": "STATIC", "connect_timeout": "1s",
  "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
   "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
  "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": %q}}}}]}]}}]}
}`, admin, filepath.Join(w.dir, "xds.sock"))
}

type envoy struct {
	t     testing.TB
	admin string
	log   lockedBuffer
}

// get asks the admin interface.
func (e *envoy) get(path string) (string, error) {
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.admin)
		},
	}, Timeout: 5 * time.Second}
	r, err := c.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

// until tries again for a minute: the machine may be busy.
func (e *envoy) until(what string, f func() error) {
	e.t.Helper()
	until(e.t, what, f)
}

func until(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// serveEach serves each connection of l with a goroutine of its own, which closes it, until l is closed.
func serveEach(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

// noRejections fails the test if Envoy refused something.
func (w *world) noRejections() {
	w.t.Helper()
	w.reported()
	for r := range w.st.Rejections.All(w.st.Snapshot()) {
		b, _ := json.Marshal(r)
		w.t.Errorf("Envoy refused: %s", b)
	}
}

// reported waits until what the server knows is in the tables.
func (w *world) reported() {
	w.t.Helper()
	until(w.t, "the reports are written", func() error {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		r := w.server.cache.reports
		if n := len(r.subjects) + len(r.rejections) + r.unwritten; n > 0 {
			return fmt.Errorf("%d are not", n)
		}
		return nil
	})
}

// accepted reports whether some Envoy has accepted the newest version of a resource.
func (w *world) accepted(typeURL, name string) bool {
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	return w.server.cache.accepted(ref{typeURL, name})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// envoyLogLevel is warning, or $ENVOY_LOG_LEVEL.
func envoyLogLevel() string {
	if l := os.Getenv("ENVOY_LOG_LEVEL"); l != "" {
		return l
	}
	return "warning"
}
