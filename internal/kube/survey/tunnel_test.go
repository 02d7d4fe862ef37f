package survey

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
)

// echo returns a unix socket that says everything again, and ends when its peer has no more to say.
func echo(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestDialAgent(t *testing.T) {
	c := connect(t, &surveytest.Server{Agents: map[string]string{"mesh/agent-a": echo(t), "mesh/agent-b": "/nowhere/s"}})
	conn, err := c.DialAgent(t.Context(), "mesh", "agent-a")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	for _, word := range []string{"hello", "again"} {
		if _, err := conn.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != word {
			t.Fatalf("%q: %v", got, err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	for pod, says := range map[string]string{"agent-b": "/nowhere/s", "none": "pod none cannot run"} {
		conn, err := c.DialAgent(t.Context(), "mesh", pod)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(got); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v does not hold %q", pod, err, says)
		}
		conn.Close()
	}
}

// A connection whose context ends does not wait for its peer.
func TestDialAgentCancelled(t *testing.T) {
	c := connect(t, &surveytest.Server{Agents: map[string]string{"mesh/agent-a": echo(t)}})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := c.DialAgent(ctx, "mesh", "agent-a")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestServeRelay(t *testing.T) {
	var out strings.Builder
	if err := ServeRelay(t.Context(), echo(t), strings.NewReader("hello"), &out); err != nil || out.String() != "hello" {
		t.Errorf("%q: %v", out.String(), err)
	}
	if err := ServeRelay(t.Context(), "/nowhere/s", strings.NewReader(""), &out); err == nil || !strings.Contains(err.Error(), "/nowhere/s") {
		t.Errorf("without a socket: %v", err)
	}
}
