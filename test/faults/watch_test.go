package faults

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// get sends a request from a pod on a connection of its own.
func get(from *lab.Pod, at netip.AddrPort, path string, headers ...string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", at.String())
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	return request(c, "GET "+path+" HTTP/1.1", append([]string{"Host: web", "Connection: close"}, headers...)...)
}

func request(c net.Conn, line string, headers ...string) (int, string, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	text := line + "\r\n"
	for _, h := range headers {
		text += h + "\r\n"
	}
	if _, err := io.WriteString(c, text+"\r\n"); err != nil {
		return 0, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return r.StatusCode, string(body), err
}

// watcher does a thing over and over, in the background.
type watcher struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	tried  int
	failed []string
}

// watch tries again and again until stop, and remembers what try complains about.
func watch(t *testing.T, name string, try func() error) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for ctx.Err() == nil {
			err := try()
			w.mu.Lock()
			w.tried++
			if err != nil && len(w.failed) < 20 {
				w.failed = append(w.failed, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
			}
			w.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *watcher) stop() {
	w.cancel()
	<-w.done
}

// more waits until what was under way is done and a few tries more.
func (w *watcher) more(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	from := w.tried
	w.mu.Unlock()
	eventually(t, w.name+" goes on", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.tried < from+3 {
			return fmt.Errorf("%d tries of 3", w.tried-from)
		}
		return nil
	})
}

// forget drops what went wrong so far.
func (w *watcher) forget(t *testing.T) {
	t.Helper()
	w.more(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = nil
}

// check complains about what went wrong since the last check.
func (w *watcher) check(t *testing.T) {
	t.Helper()
	w.more(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.failed {
		t.Errorf("%s: %s", w.name, f)
	}
	w.failed = nil
}

// eventually waits for something to be so.
func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
