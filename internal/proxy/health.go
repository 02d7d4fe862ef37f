package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// health answers at Config.HealthSocket whether this supervisor is ready. It is a socket in a folder of the pod's own:
// two pods of one node, which share the run directory and the network, are ready at different times.
type health struct {
	cfg    Config
	server *http.Server
	done   chan struct{}
	now    atomic.Pointer[supervisor]
}

// newHealth listens, unless no socket is configured.
func newHealth(cfg Config) (*health, error) {
	h := &health{cfg: cfg, done: make(chan struct{})}
	if cfg.HealthSocket == "" {
		close(h.done)
		return h, nil
	}
	if err := os.Remove(cfg.HealthSocket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("health socket: %w", err)
	}
	l, err := net.Listen("unix", cfg.HealthSocket)
	if err != nil {
		return nil, fmt.Errorf("health socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(h.done)
		_ = h.server.Serve(l) // until close
	}()
	return h, nil
}

func (h *health) close() {
	if h.server != nil {
		_ = h.server.Close()
	}
	<-h.done
}

// watch makes it tell of a supervisor that has the lock.
func (h *health) watch(s *supervisor) { h.now.Store(s) }

// ready tells why this supervisor is not ready: it is when the node's Envoy is live and not in overload, and its own
// or, after it handed over, another's. One that never had the lock is not: while it takes over, the one before it must stay.
func (h *health) ready(ctx context.Context) error {
	s := h.now.Load()
	if s == nil {
		return errors.New("it does not supervise an Envoy yet")
	}
	s.mu.Lock()
	current, handed := s.current, s.handed
	s.mu.Unlock()
	if handed {
		st, err := (&Client{RunDir: h.cfg.RunDir}).Status(ctx)
		if err == nil && !st.Live {
			err = errors.New("the Envoy of the weft proxy that took over is not live")
		}
		return err
	}
	if current == nil {
		return errors.New("no Envoy runs")
	}
	if !s.isLive(ctx, current) {
		return errors.New("Envoy is not live: it waits for its first configuration; does the agent run?")
	}
	if actions := Active(s.overloadOf(current)); len(actions) > 0 {
		return fmt.Errorf("Envoy is in overload: %s; its memory limit is %d bytes, and it may have %d connections",
			strings.Join(actions, ", "), h.cfg.MemoryLimitBytes, h.cfg.MaxConnections)
	}
	return nil
}

// Ready asks the supervisor, or the agent, behind a health socket why it is not ready.
func Ready(ctx context.Context, socket string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://weft/readyz", nil)
	if err != nil {
		return err
	}
	client := unixClient(socket)
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	return errors.New(strings.TrimSpace(string(body)))
}
