package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/state"
)

func socketAgent(t *testing.T, dir string, inCluster bool) *Agent {
	t.Helper()
	a := &Agent{cfg: Config{RunDir: dir, InCluster: inCluster, Log: slog.New(slog.DiscardHandler)}, st: state.New(state.NewDB()), noOther: make(chan struct{})}
	t.Cleanup(func() { _ = a.closeSockets() })
	return a
}

// A client that connects while one agent hands over to the next waits, and the next one serves it.
func TestTakeOver(t *testing.T) {
	for _, inCluster := range []bool{false, true} {
		dir := t.TempDir()
		first, next := socketAgent(t, dir, inCluster), socketAgent(t, dir, inCluster)
		first.cfg.HealthAddress = "127.0.0.1:0"
		if err := first.listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		address := first.healthSocket.Addr().String()
		first.sockets = sockets{}
		for _, l := range []net.Listener{first.takeover, first.xdsSocket, first.tunnelSocket, first.apiSocket} {
			first.sockets[filepath.Base(l.Addr().String())] = l
		}
		first.cfg.HealthAddress, next.cfg.HealthAddress = address, address
		first.sockets["--health-address="+address] = first.healthSocket
		asked, listening := make(chan error, 1), make(chan error, 1)
		go func() { asked <- first.awaitSuccessor(t.Context()) }()
		go func() { listening <- next.listen(t.Context()) }()
		select {
		case err := <-asked:
			t.Fatalf("the first agent was asked before the next one had read its objects: %v", err)
		case err := <-listening:
			t.Fatalf("the next agent listens before it has read its objects: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		next.st.MarkSynced()
		if err := <-asked; !errors.Is(err, errSucceeded) {
			t.Fatal(err)
		}
		for _, l := range first.sockets { // as their servers do when they end
			l.Close()
		}
		early, err := net.Dial("unix", filepath.Join(dir, xdsSocket))
		if err != nil {
			t.Fatalf("a client that came in between: %v", err)
		}
		defer early.Close()
		ended := make(chan error, 1)
		go func() { ended <- first.handOver(t.Context(), errSucceeded) }()
		if err := <-listening; err != nil {
			t.Fatal(err)
		}
		serves(t, next.xdsSocket, early)
		probe, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer probe.Close()
		serves(t, next.healthSocket, probe)
		if err := next.lostSockets(); err != nil {
			t.Error(err)
		}
		if !inCluster {
			if err := <-ended; err != nil {
				t.Error(err)
			}
			continue
		}
		select {
		case err := <-ended:
			t.Fatalf("the container of the first agent ends while the next one runs: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		_ = next.closeSockets()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("the next agent has ended: %v", err)
		}
	}
}

func serves(t *testing.T, l net.Listener, client net.Conn) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// An agent that prepares itself while the running one ends makes the sockets itself, at once.
func TestRunningAgentEnds(t *testing.T) {
	dir := t.TempDir()
	first, next := socketAgent(t, dir, false), socketAgent(t, dir, false)
	if err := first.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(t.Context())
	waiting, listening := make(chan error, 1), make(chan error, 1)
	go func() { waiting <- first.awaitSuccessor(ctx) }()
	go func() { listening <- next.listen(t.Context()) }()
	select {
	case err := <-listening:
		t.Fatal(err)
	case <-time.After(50 * time.Millisecond):
	}
	kill()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	_ = first.closeSockets()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	if next.predecessor != nil {
		t.Error("there is no agent that it took over from")
	}
}

// What connects to the takeover socket and does not ask, or asks for something else, changes nothing.
func TestTakeoverSocketIgnoresOthers(t *testing.T) {
	dir := t.TempDir()
	first := socketAgent(t, dir, false)
	if err := first.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() { asked <- first.awaitSuccessor(ctx) }()
	for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 1<<16), "take over"} {
		c, err := net.Dial("unix", filepath.Join(dir, takeoverSocket))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		if u := c.(*net.UnixConn); text != "take over" {
			_ = u.CloseWrite()
		} else {
			u.Close()
			continue
		}
		if got, err := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%.20q: answered %q, %v", text, got, err)
		}
		c.Close()
	}
	stop()
	if err := <-asked; err != nil {
		t.Error(err)
	}
}
