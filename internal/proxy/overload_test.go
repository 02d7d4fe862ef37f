package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const refusing = "stop_accepting_requests"

// hoard is a listener of Envoy whose cluster accepts connections and never reads: what is uploaded stays in Envoy.
type hoard struct {
	n    *node
	addr string

	mu    sync.Mutex
	conns []net.Conn
}

// newHoard makes Envoy serve the listener. It must be called before Envoy starts. Without overload streams end after idle without
// a byte, with "0s" never.
func newHoard(n *node, idle string) *hoard {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	h := &hoard{n: n, addr: freeAddress(n.t)}
	n.t.Cleanup(func() { l.Close(); h.release() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.keep(c)
		}
	}()
	listener := answering(h.addr)
	listener["name"] = "hoard"
	hcm := listener["filter_chains"].([]object)[0]["filters"].([]object)[0]["typed_config"].(object)
	hcm["stat_prefix"] = "hoard"
	hcm["stream_idle_timeout"] = idle
	hcm["route_config"] = object{"virtual_hosts": []object{{"name": "all", "domains": []string{"*"}, "routes": []object{{
		"match": object{"prefix": "/"}, "route": object{"cluster": "hoard", "timeout": "0s"},
	}}}}}
	at := object{"address": "127.0.0.1", "port_value": l.Addr().(*net.TCPAddr).Port}
	n.write("cds.json", object{"resources": []object{typed("envoy.config.cluster.v3.Cluster", object{
		"name": "hoard", "connect_timeout": "5s", "load_assignment": object{"cluster_name": "hoard", "endpoints": []object{{
			"lb_endpoints": []object{{"endpoint": object{"address": object{"socket_address": at}}}},
		}}},
	})}})
	n.write("lds.json", object{"resources": []object{answering(n.addr), listener}})
	return h
}

func (h *hoard) keep(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c)
}

// fill uploads until Envoy is in overload.
func (h *hoard) fill() {
	h.n.t.Helper()
	for range 200 {
		if h.refuses() {
			return
		}
		h.upload()
	}
	h.n.t.Fatal("200 uploads that stay in Envoy do not bring it into overload")
}

// refuses reports whether Envoy refuses requests.
func (h *hoard) refuses() bool {
	st, err := h.n.client().Status(context.Background())
	return err == nil && st.Overload[refusing]
}

// upload sends as much of a body as Envoy takes.
func (h *hoard) upload() {
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		return
	}
	h.keep(c)
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = c.Write(make([]byte, 16<<20))
}

// release ends the uploads.
func (h *hoard) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
}

// calm reports whether Envoy was asked for its overload and is in none.
func calm(st *Status) bool { return len(st.Overload) > 0 && len(Active(st.Overload)) == 0 }

// An Envoy in overload is not ready, and is again when the overload is over.
func TestOverloadIsUnready(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, "0s")
	n.cfg.MemoryLimitBytes = 64 << 20
	n.cfg.OverloadTime = time.Hour
	n.cfg.HealthSocket = n.cfg.path("health.sock")
	n.run(n.cfg)
	first := n.untilLive()
	n.until("Envoy is in no overload", calm)
	if err := Ready(t.Context(), n.cfg.HealthSocket); err != nil {
		t.Errorf("not ready: %v", err)
	}
	h.fill()
	if err := Ready(t.Context(), n.cfg.HealthSocket); err == nil || !strings.Contains(err.Error(), refusing) {
		t.Errorf("readiness in overload: %v, want an error that names %s", err, refusing)
	}
	h.release()
	if st := n.until("the overload ends", calm); st.PID != first.PID {
		t.Errorf("status %+v: Envoy was replaced before its time", st)
	}
	if err := Ready(t.Context(), n.cfg.HealthSocket); err != nil {
		t.Errorf("not ready after the overload: %v", err)
	}
}

// An Envoy that is short of memory ends connections without a request. Those with a request stay.
func TestIdleConnectionsGiveWay(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, "0s")
	n.cfg.MemoryLimitBytes = 64 << 20
	n.cfg.OverloadTime = time.Hour
	n.run(n.cfg)
	n.untilLive()
	idle, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	wait := func(c net.Conn, d time.Duration) error {
		_ = c.SetReadDeadline(time.Now().Add(d))
		_, err := c.Read(make([]byte, 1))
		return err
	}
	if err := wait(idle, 3*time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("with enough memory, the idle connection: %v", err)
	}
	h.fill()
	if err := wait(idle, 20*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("short of memory, the idle connection is still held: %v", err)
	}
	h.mu.Lock()
	upload := h.conns[0]
	h.mu.Unlock()
	if err := wait(upload, 3*time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first upload: %v", err)
	}
}

// An Envoy that stays in overload is replaced by a hot restart, and the next one not at once.
func TestOverloadIsReplaced(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, "0s")
	n.cfg.MemoryLimitBytes = 64 << 20
	n.cfg.OverloadTime, n.cfg.OverloadInterval = 2*time.Second, time.Hour
	n.run(n.cfg)
	first := n.untilLive()
	h.fill()
	second := n.until("Envoy is replaced", func(st *Status) bool {
		return st.PID != first.PID && st.Live && calm(st) && st.Overloads == 1
	})
	if second.Epoch != 1 || second.Restarts != 1 || second.Crashes != 0 {
		t.Errorf("status %+v, want one hot restart", second)
	}
	n.until("the next supervisor would know it", func(*Status) bool { return n.cfg.loadRecord().Overloads == 1 })
	if err := n.get(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(n.logs.String(), "stays in overload and is replaced") {
		t.Error("the replacement is not in the log")
	}
	h.fill()
	n.until("the second overload lasts", func(*Status) bool { return strings.Contains(n.logs.String(), "is not replaced again yet") })
	if st := n.until("Envoy is in overload", func(st *Status) bool { return st.Overload[refusing] }); st.PID != second.PID {
		t.Errorf("status %+v: Envoy was replaced again at once", st)
	}
}

// Where the binary cannot be hot-restarted into, an Envoy that stays in overload is restarted cold.
func TestOverloadIsRestartedCold(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, "0s")
	real := n.cfg.Envoy
	n.cfg.Envoy = filepath.Join(n.cfg.RunDir, "binary")
	script := "#!/bin/sh\ncase \"$*\" in *--hot-restart-version*) echo 10.96; exit;; esac\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(n.cfg.Envoy, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n.cfg.MemoryLimitBytes = 64 << 20
	n.cfg.OverloadTime, n.cfg.OverloadInterval = time.Second, time.Hour
	n.run(n.cfg)
	first := n.untilLive()
	h.fill()
	n.until("Envoy is replaced", func(st *Status) bool {
		return st.PID != first.PID && st.Live && st.Epoch == 0 && st.Restarts == 1 && st.Overloads == 1 && calm(st)
	})
	if err := n.get(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(n.logs.String(), "is restarted cold") {
		t.Error("the cold restart is not in the log")
	}
}

func TestOverloadWatch(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	var w overloadWatch
	for _, step := range []struct {
		second  int
		refuses bool
		want    int
	}{
		{0, false, 0}, {1, true, 0}, {5, true, 4},
		{6, false, 0}, {9, true, 8}, // it took on work for a moment
		{10, false, 0}, {21, false, 0}, {22, true, 0}, {30, true, 8}, // it had recovered
	} {
		if got := w.saw(at(step.second), step.refuses); got != time.Duration(step.want)*time.Second {
			t.Errorf("second %d: %v, want %d s", step.second, got, step.want)
		}
	}
}

// TestFullConnectionsAreTold: an Envoy that refuses connections because it has as many as it may have says so until it takes them again.
// It stays: the next would have as many soon.
func TestFullConnectionsAreTold(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.cfg.MaxConnections = 8
	n.cfg.OverloadTime = time.Second
	n.run(n.cfg)
	first := n.untilLive()
	n.until("Envoy is in no overload", calm)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	full := func(st *Status) bool {
		c, err := net.Dial("tcp", n.addr)
		if err == nil {
			held = append(held, c)
		}
		return st.Overload[model.OverloadConnections]
	}
	n.until("Envoy says that it refuses connections", full)
	time.Sleep(3 * n.cfg.OverloadTime)
	if st, err := n.client().Status(t.Context()); err != nil || st.PID != first.PID || st.Overloads > 0 {
		t.Errorf("status %+v (%v), want Envoy %d", st, err, first.PID)
	}
	for _, c := range held {
		c.Close()
	}
	held = nil
	n.until("Envoy takes connections again", calm)
}

func TestConnectionWatch(t *testing.T) {
	start := time.Now()
	var w connectionWatch
	for _, step := range []struct {
		second  int
		refused uint64
		want    bool
	}{
		{0, 7, false}, // those that an earlier supervisor saw
		{1, 7, false}, {2, 9, true}, {3, 9, true}, {12, 9, true}, {13, 9, false}, {14, 10, true},
	} {
		if got := w.saw(start.Add(time.Duration(step.second)*time.Second), step.refused); got != step.want {
			t.Errorf("second %d: %v, want %v", step.second, got, step.want)
		}
	}
}
