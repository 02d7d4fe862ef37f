package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer is one without listeners of its own.
func newServer(name string) *Server { return &Server{Name: name, loads: map[string]*load.Running{}} }

func TestLoadIsStartedAndStopped(t *testing.T) {
	s := newServer("a")
	web := httptest.NewServer(http.HandlerFunc(s.answer))
	defer web.Close()
	control := httptest.NewServer(s.control())
	defer control.Close()
	post := func(path, body string) (int, []byte) {
		t.Helper()
		res, err := control.Client().Post(control.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(res.Body)
		return res.StatusCode, b.Bytes()
	}
	spec, _ := json.Marshal(Spec{URL: web.URL, Workers: 2, Rate: 1000})
	for range 2 { // the second takes the place of the first
		if status, b := post("/start/x", string(spec)); status != http.StatusOK {
			t.Fatalf("start: %d %s", status, b)
		}
	}
	time.Sleep(50 * time.Millisecond)
	status, b := post("/stop/x", "")
	var sum Summary
	if err := json.Unmarshal(b, &sum); err != nil || status != http.StatusOK {
		t.Fatalf("stop: %d %s (%v)", status, b, err)
	}
	if sum.Requests == 0 || sum.Failed != 0 || sum.Backends["a"] != sum.Requests || sum.Max < sum.P50 {
		t.Errorf("%+v", sum)
	}
	for path, body := range map[string]string{"/stop/x": "", "/start/y": "{", "/start/z": `{"url": "ftp://a"}`} {
		if status, b := post(path, body); status != http.StatusBadRequest || len(b) == 0 {
			t.Errorf("%s: %d %s, want 400 and why", path, status, b)
		}
	}
}

func TestBytesAndDatagrams(t *testing.T) {
	s := newServer("b")
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- s.serveBytes(ctx, l) }()
	go func() { done <- s.serveUDP(ctx, p) }()
	for network, at := range map[string]string{"tcp": l.Addr().String(), "udp": p.LocalAddr().String()} {
		if line, err := Talk(t.Context(), network, at); err != nil || !strings.HasPrefix(line, "b saw 127.0.0.1:") {
			t.Errorf("%s: %q %v", network, line, err)
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestPollTellsTheFirstGoodAnswer(t *testing.T) {
	var n atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer web.Close()
	before := time.Now()
	var out bytes.Buffer
	if err := Poll(t.Context(), strings.NewReader(web.URL+"\n"), &out); err != nil {
		t.Fatal(err)
	}
	at, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
	if err != nil || at < before.UnixNano() || at > time.Now().UnixNano() || n.Load() != 3 {
		t.Errorf("%q (%v) after %d requests", out.String(), err, n.Load())
	}
}

func TestCallTellsWhatItGot(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(newServer("c").answer))
	if a := Call(t.Context(), web.URL+"/x", "host.example", nil); a.Status != 200 || a.Backend != "c" || !strings.Contains(a.Body, "host.example/x") {
		t.Errorf("%+v", a)
	}
	web.Close()
	if a := Call(t.Context(), web.URL, "", nil); a.Status != 0 || a.Error == "" {
		t.Errorf("nobody listens: %+v", a)
	}
}
