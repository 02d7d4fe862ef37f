package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/testenv"
	"github.com/weft-mesh/weft/test/bench/wire"
)

// The test binary plays the benchmark's client and server in pods.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "as-") {
		if err := runAs(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What weft is compared with must work, and must be what it says: two Envoys in the way for a pair of sidecars.
func TestHandWrittenEnvoys(t *testing.T) {
	testenv.Root(t)
	c := config{envoy: testenv.Envoy(t), binary: os.Args[0]}
	n, err := newNode(c)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{ctx: t.Context(), c: c, n: n, dir: t.TempDir()}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		for _, p := range b.procs {
			_ = p.Wait()
		}
	})
	for d := b.dir; d != os.TempDir(); d = filepath.Dir(d) { // the sidecars' user reads it
		_ = os.Chmod(d, 0o777)
	}
	if err := n.Apply(t.Context(), fstest.MapFS{"bench/all.yaml": {Data: []byte(manifests)}}, "bench"); err != nil {
		t.Fatal(err)
	}
	server, err := b.server(n.Pod("plain", "server"))
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(n.Pod("plain", "server").Address, serverPort)
	pid, err := b.start(n.Pod("plain", "client"), hop{Name: "static", Listen: "127.0.0.1", ListenPort: 16001, Upstream: to.Addr().String(), UpstreamPort: to.Port()})
	if err != nil {
		t.Fatal(err)
	}
	all := []way{{static, n.Pod("plain", "client"), netip.MustParseAddrPort("127.0.0.1:16001"), server, []int{pid}}}
	for _, p := range pairs {
		w, err := b.sidecars(p.pod, p.tls, p.http2)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	for _, w := range all {
		for _, l := range []wire.Load{{Connections: 4}, {Connections: 4, Reopen: true}, {Connections: 4, Reopen: true, FIN: true}, {Stream: true}} {
			l.Duration = 200 * time.Millisecond
			s, err := w.measure(t.Context(), l)
			if err != nil {
				t.Errorf("%s: %v", describe(l), err)
				continue
			}
			for _, p := range w.proxies { // each Envoy had its part in it
				if spent, err := cpuTime(p); err != nil || spent == 0 || s.Proxies == 0 {
					t.Errorf("%s, %s: process %d spent %v of %v (%v)", w.name, describe(l), p, spent, s.Proxies, err)
				}
			}
		}
	}
}

// A short run of everything but the crowd: figures mean nothing, but each way must carry requests, and a change arrive.
func TestShortRun(t *testing.T) {
	testenv.Root(t)
	all := connections
	defer func() { connections = all }()
	connections = []int{openers}
	bin := testenv.Weft(t)
	c := config{binary: bin, envoy: testenv.Envoy(t), bytes: "tunnel", rounds: 1, span: 100 * time.Millisecond, routes: "10", changes: 3, idle: 50, hold: 3 * time.Second}
	r := newReport(c)
	if err := paths(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	if err := observing(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	if err := questions(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	if err := idle(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	if err := change(t.Context(), c, r); err != nil {
		t.Fatal(err)
	}
	r.mark()
	if len(r.Requests) != 10 || len(r.Unread) != 10 || len(r.Idle) != 3 || len(r.Change) != 1 || len(r.Observing) != 2 || len(r.Marks) != 16 {
		t.Errorf("%d, %d, %d, %d figures, %d marks", len(r.Requests), len(r.Unread), len(r.Idle), len(r.Change), len(r.Marks))
	}
	for _, f := range [][]figures{r.Opened, r.OpenedFIN, r.Throughput} {
		if len(f) != 10 {
			t.Errorf("%d figures, want one for each way", len(f))
		}
	}
	for _, o := range r.Observing {
		for _, f := range o.Observing {
			if len(o.Observing) != 6 || f.Rate <= 0 || f.Failed > 0 {
				t.Errorf("%s: %+v", o.Way, f)
			}
		}
	}
	for _, q := range r.Questions {
		for _, f := range q.Observing {
			if len(r.Questions) != 3 || len(q.Observing) != 3 || f.Rate <= 0 || f.Failed > 0 {
				t.Errorf("%s: %+v", q.Way, f)
			}
		}
	}
	for _, f := range r.Idle {
		if f.Before <= 0 || f.With < f.Before {
			t.Errorf("%+v", f)
		}
	}
	for _, f := range slices.Concat(r.Requests, r.Opened, r.OpenedFIN, r.Throughput) {
		if f.Rate <= 0 || f.Failed > 0 {
			t.Errorf("%+v", f)
		}
	}
	if f := r.Change[0]; len(f.All) != 3 || f.Median <= 0 {
		t.Errorf("%+v", f)
	}
	file := filepath.Join(t.TempDir(), "build", "bench.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !json.Valid(text) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestRatioPairsRounds(t *testing.T) {
	all := []figures{
		{Way: kernel, Connections: 1, Rounds: []float64{10, 40, 90}},
		{Way: direct, Connections: 1, Rounds: []float64{10, 20, 100}},
		{Way: direct, Connections: 32, Rounds: []float64{1, 1, 1}},
	}
	if got, ok := ratio(all, kernel, direct, 1); !ok || got != 1 {
		t.Errorf("ratio %v", got)
	}
	if _, ok := ratio(all, kernel, direct, 32); ok {
		t.Error("a ratio of what was not measured")
	}
}

func TestMarks(t *testing.T) {
	r := &report{
		Requests: []figures{{Way: kernel, Connections: 1, Rounds: []float64{97}}, {Way: direct, Connections: 1, Rounds: []float64{100}}},
		Memory:   &memoryFigures{Ready: footprint{Agent: 100e6, Envoy: 120e6}},
		Change:   []changeFigures{{Routes: 10, Median: time.Hour}, {Routes: 10_000, Median: 19 * time.Millisecond, AgentCPU: 2 * time.Millisecond}},
	}
	r.mark()
	got := map[string]bool{}
	for _, m := range r.Marks {
		got[m.Name] = m.Pass
	}
	want := map[string]bool{
		"kernel path / direct, requests at 1": false, "Envoy, 100 pods and 5,000 L7 Services": false, "agent, the same": true,
		"changed route answers, median at 10000 routes": true, "CPU of the agent for it": false,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	var b strings.Builder
	r.print(&b)
	for _, s := range []string{"MISS", "pass", "120 MB"} {
		if !strings.Contains(b.String(), s) {
			t.Errorf("%q is not in\n%s", s, b.String())
		}
	}
}

// TestMissWithinNoise: a miss is called noise where the rounds differ by more than it.
func TestMissWithinNoise(t *testing.T) {
	for want, rounds := range map[bool][]float64{true: {90, 80, 120, 70, 95, 90}, false: {90, 80, 91, 70, 95, 90}} {
		r := &report{Observing: []observedFigures{{Way: weftL7, Observing: []figures{
			{Way: observingNothing, Connections: 32, Rounds: []float64{100, 100, 100, 100, 100, 100}}, {Way: observingMetrics, Connections: 32, Rounds: rounds},
		}}}}
		r.mark()
		if m := r.Marks; len(m) != 1 || m[0].Pass || m[0].Noise != want {
			t.Errorf("%v: %+v", rounds, m)
		}
	}
}

func TestCPUAndMemoryOfAProcess(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for x, end := 0, time.Now().Add(50*time.Millisecond); time.Now().Before(end); x++ {
		_ = x
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("%v, then %v (%v)", before, after, err)
	}
	if n, err := resident(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("resident %d, %v", n, err)
	}
	if _, err := cpuTime(1 << 30); err == nil {
		t.Error("a process that is not there")
	}
}

func TestCrowd(t *testing.T) {
	fsys := crowd(3, 450)
	if len(fsys) != 4 { // the namespace; 453 documents in files of 200
		t.Errorf("%d files", len(fsys))
	}
	if s := string(fsys["crowd/all-0.yaml"].Data); strings.Count(s, "kind: Service\n") != 197 || strings.Count(s, "kind: Pod\n") != 3 {
		t.Error(s[:300])
	}
}
