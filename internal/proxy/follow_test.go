package proxy

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// follower follows a supervisor, and gives what it hears.
type follower struct {
	heard chan Status
	end   chan error
}

func (n *node) follow() *follower {
	f := &follower{heard: make(chan Status), end: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	n.t.Cleanup(cancel)
	go func() {
		f.end <- n.client().Follow(ctx, func(st *Status) {
			select {
			case f.heard <- *st:
			case <-ctx.Done():
			}
		})
	}()
	return f
}

// until waits for a status. Nothing is asked of the supervisor.
func (f *follower) until(t *testing.T, what string, ok func(Status) bool) Status {
	t.Helper()
	limit := time.After(30 * time.Second)
	var last Status
	for {
		select {
		case last = <-f.heard:
			if ok(last) {
				return last
			}
		case err := <-f.end:
			t.Fatalf("the answer ended before %s: %v", what, err)
		case <-limit:
			t.Fatalf("waited in vain until %s; last: %+v", what, last)
		}
	}
}

// TestFollow: whoever follows hears of each change, and of a supervisor that hangs.
func TestFollow(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	if err := n.client().Follow(t.Context(), func(*Status) { t.Error("a status of nobody") }); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a supervisor: %v", err)
	}
	cmd := n.start()
	n.untilLive()
	f := n.follow()
	first := f.until(t, "Envoy is live and was asked", func(st Status) bool {
		return st.State == "LIVE" && st.Live && st.Version != "" && len(st.Overload) > 0
	})
	if err := n.client().Restart(context.Background()); err != nil {
		t.Fatal(err)
	}
	second := f.until(t, "the next Envoy serves", func(st Status) bool { return st.Epoch == first.Epoch+1 && st.State == "LIVE" && len(st.Overload) > 0 })
	if err := syscall.Kill(second.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	f.until(t, "Envoy hangs", func(st Status) bool { return st.State == "UNKNOWN" })
	if err := syscall.Kill(second.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.until(t, "Envoy goes on", func(st Status) bool { return st.State == "LIVE" })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := f.ended(); err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("a supervisor that hangs: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f = n.follow()
	f.until(t, "the supervisor goes on", func(st Status) bool { return st.PID == second.PID })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := f.ended(); err != nil {
		t.Errorf("a supervisor that ends: %v", err)
	}
	if _, err := cmd.Process.Wait(); err != nil {
		t.Error(err)
	}
}

// ended returns how the answer ended.
func (f *follower) ended() error {
	for {
		select {
		case <-f.heard:
		case err := <-f.end:
			return err
		}
	}
}

// A supervisor that is silent listens.
func TestListening(t *testing.T) {
	c := &Client{RunDir: t.TempDir()}
	if c.Listening(t.Context()) {
		t.Error("something listens where there is no socket")
	}
	l, err := net.Listen("unix", filepath.Join(c.RunDir, ControlSocket))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if !c.Listening(t.Context()) {
		t.Error("a supervisor that accepts nothing does not count as listening")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if c.Listening(t.Context()) {
		t.Error("something listens at a socket that was left behind")
	}
}
