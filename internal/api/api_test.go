package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWaysToTheAgent(t *testing.T) {
	c := NewClient("/run/weft")
	for _, x := range []struct {
		name string
		err  error
		is   error
		says string
	}{
		{"no socket", &url.Error{Err: &net.OpError{Err: os.NewSyscallError("connect", syscall.ENOENT)}}, ErrNotRunning, "weft agent --manifests"},
		{"nobody behind it", &url.Error{Err: &net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, ErrNotRunning, "/run/weft/agent.sock"},
		{"not root", &url.Error{Err: &net.OpError{Err: os.NewSyscallError("connect", syscall.EACCES)}}, ErrPermission, "sudo"},
		{"else", &url.Error{URL: "http://agent/?path=long", Err: syscall.EIO}, syscall.EIO, "/run/weft/agent.sock"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if err := c.explain(x.err); !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.says) || strings.Contains(err.Error(), "long") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestOtherAnswers talks to servers that do not say what an agent of this version would.
func TestOtherAnswers(t *testing.T) {
	for _, x := range []struct {
		name    string
		handler http.HandlerFunc
		says    string
	}{
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "another version"},
		{"error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "tables are gone", 500) }, "tables are gone"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"healthy":`))
		}, "unexpected EOF"},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "weft")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			l, err := net.Listen("unix", filepath.Join(dir, SocketName))
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{Handler: x.handler}
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Serve(l) }()
			defer func() { s.Close(); <-done }()
			if _, err := NewClient(dir).Status(t.Context()); err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("error %v does not hold %q", err, x.says)
			}
		})
	}
}

func TestFlowQueryIsItsText(t *testing.T) {
	for _, q := range []FlowQuery{
		{},
		{Follow: true, Limit: 3, Terms: observe.Terms{
			Namespace: []string{"shop", "!store"}, From: []string{"shop/app:80"}, To: []string{"10.0.0.0/8", "!:80"}, Verdict: []string{"refused"},
			Layer: []string{"mTLS"}, Protocol: []string{"tcp"}, Method: []string{"GET"}, Status: []string{"5xx", "404"}, Path: []string{"/a*"},
			Since: time.Date(2030, 5, 1, 12, 0, 0, 5, time.UTC), Until: time.Date(2030, 5, 1, 13, 0, 0, 0, time.UTC),
		}},
	} {
		got, _, err := parseFlowQuery(q.values())
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(q, got); d != "" {
			t.Error(d)
		}
	}
	for _, bad := range []url.Values{
		{"limit": {"-1"}}, {"limit": {"x"}}, {"from": {"a/b/c"}}, {"to": {"a:0"}}, {"verdict": {"?"}}, {"layer": {"L5"}},
		{"since": {"yesterday"}}, {"status": {"4"}},
	} {
		if _, _, err := parseFlowQuery(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

// TestKindsRoundTrip reads back what the handler writes of the types that have a text form of their own.
func TestKindsRoundTrip(t *testing.T) {
	if err := new(model.MTLSMode).UnmarshalText([]byte("strikt")); err == nil {
		t.Error("an unknown mode was taken")
	}
	if err := new(model.Protocol).UnmarshalText([]byte("SCTP")); err == nil {
		t.Error("an unknown protocol was taken")
	}
	for _, m := range []model.MTLSMode{model.MTLSDisabled, model.MTLSPermissive, model.MTLSStrict} {
		text, _ := m.MarshalText()
		var got model.MTLSMode
		if err := got.UnmarshalText(text); err != nil || got != m {
			t.Errorf("%s became %s: %v", m, got, err)
		}
	}
	if _, ok := observe.ParseVerdict(""); ok {
		t.Error("no verdict is a verdict")
	}
}

// refusing is a connection that an agent ends before the request is written.
type refusing struct {
	net.Conn
	err    error
	closed chan struct{}
	once   sync.Once
}

func (r *refusing) Read([]byte) (int, error) { return 0, r.err }

func (r *refusing) Write([]byte) (int, error) {
	<-r.closed
	return 0, r.err
}

func (r *refusing) Close() error {
	r.once.Do(func() { close(r.closed) })
	return r.Conn.Close()
}

func TestErrorOfTheConnectionIsAllThatIsSaid(t *testing.T) {
	ended := errors.New("no agent in this pod")
	for range 50 {
		ours, theirs := net.Pipe()
		c := NewClientBy("node a", func(context.Context) (net.Conn, error) {
			return &refusing{Conn: ours, err: ended, closed: make(chan struct{})}, nil
		})
		_, err := c.Status(t.Context())
		theirs.Close()
		if want := "asking the agent of node a: no agent in this pod"; err == nil || err.Error() != want || !errors.Is(err, ended) {
			t.Fatalf("error %v, want %s", err, want)
		}
	}
}
