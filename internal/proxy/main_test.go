package proxy

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/testenv"
)

// asSupervisor makes the test binary a `weft proxy` of its own: a supervisor that can be killed.
const asSupervisor = "WEFT_TEST_SUPERVISOR"

func TestMain(m *testing.M) {
	if cgroup := os.Getenv(asShim); cgroup != "" {
		os.Exit(runShim(cgroup))
	}
	if what := os.Getenv(asConfined); what != "" {
		os.Exit(runConfined(what))
	}
	if text := os.Getenv(asSupervisor); text != "" {
		os.Exit(runSupervisor(text))
	}
	_ = flag.Set("test.parallel", "4") // go test's own would be the number of processors, and these tests wait
	goleak.VerifyTestMain(m)
}

func runSupervisor(text string) int {
	var cfg Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	cfg.amend = listenersFromFile(cfg.RunDir)
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// listenersFromFile serves the listeners in <run>/lds.json in place of the agent's.
func listenersFromFile(runDir string) func(map[string]any) {
	file := func(name string) object {
		return object{"path_config_source": object{"path": filepath.Join(runDir, name)}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	}
	return func(b map[string]any) {
		d := b["dynamic_resources"].(object)
		d["lds_config"], d["cds_config"] = file("lds.json"), file("cds.json")
		runtime := b["layered_runtime"].(object)
		runtime["layers"] = runtime["layers"].([]object)[:1] // nobody serves the other
	}
}

// node is a run directory and a cgroup with a listener's configuration in it.
type node struct {
	t    *testing.T
	cfg  Config
	addr string
	logs *logs
}

func newNode(t *testing.T) *node {
	t.Helper()
	t.Parallel() // they wait for Envoy for most of the time, each for its own
	testenv.Root(t)
	envoy := testenv.Envoy(t)
	dir, err := os.MkdirTemp("", "weft-proxy-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, logs: &logs{t: t}, addr: freeAddress(t), cfg: Config{
		RunDir: dir, Node: "test", Envoy: envoy, Cgroup: filepath.Base(dir), Concurrency: 1,
		DrainTime: time.Second, ParentShutdownTime: 2 * time.Second,
	}}
	n.cfg.startTimeout = 15 * time.Second
	n.cfg.amend = listenersFromFile(dir)
	n.cfg.Log = slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.write("cds.json", object{"resources": []object{}})
	n.write("lds.json", object{"resources": []object{answering(n.addr)}})
	n.agent()
	t.Cleanup(n.clean)
	return n
}

// clean ends what a failed test left, and insists that a test that went well left nothing.
func (n *node) clean() {
	cgroup, err := prepareCgroup(n.cfg.CgroupRoot, n.cfg.Cgroup)
	if err != nil {
		n.t.Error(err)
		return
	}
	pids, _ := cgroupPIDs(cgroup)
	for _, pid := range pids {
		if p, err := attach(envoy{PID: pid}); err == nil {
			n.t.Errorf("process %d is left in Envoy's cgroup", pid)
			p.end(time.Second)
		}
	}
	if r := n.cfg.loadRecord(); len(r.Envoys) > 0 {
		n.t.Errorf("%s remembers %v", recordFile, r.Envoys)
		n.cfg.forget(r.Envoys[0].BaseID)
	}
	for id := range n.logs.baseIDs() {
		if _, err := os.Stat(sharedMemory(id)); err == nil {
			n.t.Errorf("%s is left", sharedMemory(id))
		}
	}
	for range 100 {
		if err = os.Remove(cgroup); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		n.t.Error(err)
	}
	os.RemoveAll(n.cfg.RunDir)
}

func (n *node) write(name string, v any) {
	n.t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = atomicfile.Write(filepath.Join(n.cfg.RunDir, name), data, 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// agent accepts connections at the xDS socket and says nothing: the listeners come from a file here.
func (n *node) agent() {
	l, err := net.Listen("unix", n.cfg.path(XDSSocket))
	if err != nil {
		n.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			})
		}
	})
	n.t.Cleanup(func() { l.Close(); wg.Wait() })
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// answering is a listener that answers every request with 200.
func answering(addr string) object {
	a, _ := net.ResolveTCPAddr("tcp", addr)
	return typed("envoy.config.listener.v3.Listener", object{
		"name": "answering", "address": object{"socket_address": object{"address": a.IP.String(), "port_value": a.Port}},
		"filter_chains": []object{{"filters": []object{{"name": "hcm", "typed_config": typed(
			"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
				"stat_prefix": "answering",
				"http_filters": []object{{"name": "router", "typed_config": typed(
					"envoy.extensions.filters.http.router.v3.Router", nil)}},
				"route_config": object{"virtual_hosts": []object{{"name": "all", "domains": []string{"*"}, "routes": []object{{
					"match": object{"prefix": "/"}, "direct_response": object{"status": 200, "body": object{"inline_string": "ok"}},
				}}}}},
			})}}}},
	})
}

// run supervises in this process until stop is called, which gives Run's error.
func (n *node) run(cfg Config) (stop func() error) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	n.t.Cleanup(func() { _ = stop() })
	return stop
}

// start supervises in a process of its own.
func (n *node) start() *exec.Cmd {
	n.t.Helper()
	public := n.cfg
	public.Log = nil
	text, err := json.Marshal(public)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asSupervisor+"="+string(text))
	cmd.Stderr = n.logs
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = cmd.Process.Wait() })
	return cmd
}

func (n *node) client() *Client { return &Client{RunDir: n.cfg.RunDir} }

// until waits for a status, at most as long as the slowest machine takes.
func (n *node) until(what string, ok func(*Status) bool) *Status {
	n.t.Helper()
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		st, err := n.client().Status(context.Background())
		if err == nil && ok(st) {
			return st
		}
		if text, _ := json.Marshal(st); err == nil {
			last = string(text)
		} else {
			last = err.Error()
		}
	}
	n.t.Fatalf("waited in vain until %s; last: %s", what, last)
	return nil
}

func (n *node) untilLive() *Status {
	n.t.Helper()
	return n.until("Envoy is live", func(st *Status) bool { return st.Live && st.State == "LIVE" })
}

func (n *node) get() error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return get(c, n.addr)
}

func get(c *http.Client, addr string) error {
	resp, err := c.Get("http://" + addr + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(body) != "ok" {
		return fmt.Errorf("status %d, body %q, error %w", resp.StatusCode, body, err)
	}
	return nil
}

// underLoad starts load, with new connections and with kept ones, that the function it returns ends: no request may fail.
func (n *node) underLoad() (end func()) {
	n.t.Helper()
	var running []*load.Running
	for _, fresh := range []bool{true, false} {
		r, err := load.Start(context.Background(), load.Config{
			URL: "http://" + n.addr + "/", Workers: 2, NewConnections: fresh, Rate: 1000, Duration: time.Minute, Timeout: 10 * time.Second,
		})
		if err != nil {
			n.t.Fatal(err)
		}
		running = append(running, r)
	}
	end = sync.OnceFunc(func() {
		n.t.Helper()
		for i, r := range running {
			report := r.Stop()
			n.t.Logf("%d requests over %s connections, %d failed", report.Requests, []string{"new", "kept"}[i], report.Failed)
			if report.Failed > 0 || report.Requests == 0 {
				n.t.Errorf("failures: %v", report.Errors)
			}
		}
	})
	n.t.Cleanup(end)
	return end
}

// logs keeps what was logged, for the test's own output and its conditions.
type logs struct {
	t    *testing.T
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// baseIDs are those of all Envoys that were started.
func (l *logs) baseIDs() map[uint32]bool {
	out := map[uint32]bool{}
	for _, m := range regexp.MustCompile(`baseID=(\d+)`).FindAllStringSubmatch(l.String(), -1) {
		if id, err := strconv.ParseUint(m[1], 10, 32); err == nil {
			out[uint32(id)] = true
		}
	}
	if len(out) == 0 {
		l.t.Log("no Envoy was started")
	}
	return out
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
