package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// serve answers on the control socket until the function that it returns is called.
func (s *supervisor) serve(ctx context.Context, l net.Listener, lock io.Closer) (stop func()) {
	mux := http.NewServeMux()
	following, endFollowing := context.WithCancel(ctx)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "true" {
			s.follow(following, w, r)
			return
		}
		answer(w, s.status(r.Context()), nil)
	})
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.ask(r.Context(), s.restart))
	})
	committed := make(chan struct{})
	mux.HandleFunc("POST /handover", func(w http.ResponseWriter, r *http.Request) { s.handover(ctx, w, r, committed) })
	mux.HandleFunc("POST /handover/commit", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, s.ask(r.Context(), func(context.Context) error { return s.commit(lock, committed) }))
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	srv.RegisterOnShutdown(endFollowing)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer endFollowing()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Log.Error("the control socket does not answer any more", "error", err)
		}
	}()
	return func() {
		// Answers on their way are finished; who holds an offer open is not waited for.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}

// handover offers the Envoy to another supervisor for as long as that holds its request open.
func (s *supervisor) handover(ctx context.Context, w http.ResponseWriter, r *http.Request, committed <-chan struct{}) {
	err := s.ask(r.Context(), func(ctx context.Context) error {
		if s.handing {
			return errors.New("it is handing over to another already")
		}
		if s.current == nil || !s.isLive(ctx, s.current) {
			return errors.New("its Envoy is not live; try again when it is, or end it first")
		}
		s.set(func() { s.handing = true })
		return nil
	})
	if err != nil {
		answer(w, nil, err)
		return
	}
	answer(w, s.record(), nil)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-committed:
		return
	case <-r.Context().Done():
	case <-ctx.Done():
		return
	}
	_ = s.ask(ctx, func(context.Context) error { s.takeBack(); return nil })
}

// takeBack goes on after a handover that the other side gave up.
func (s *supervisor) takeBack() {
	if s.handed {
		return
	}
	s.cfg.Log.Warn("the weft proxy that was to take over gave up; this one goes on")
	s.set(func() { s.handing = false })
	before := s.current
	s.adopt(s.cfg.loadRecord()) // it may have left an Envoy that is live by now
	if s.current == before && !before.gone() {
		// One in another PID namespace, which has ended with it, cannot be seen; what it leaves can.
		if busy, err := starting(before.BaseID); err == nil && busy {
			_ = clearStarting(before.BaseID)
		}
	}
	s.save()
}

// commit ends this supervisor's part: the lock is the other's from here on.
func (s *supervisor) commit(lock io.Closer, committed chan<- struct{}) error {
	if !s.handing || s.handed {
		return errors.New("no handover is under way")
	}
	s.leaveTunnel() // before the other looks after it
	s.set(func() { s.handed = true })
	close(committed)
	return lock.Close()
}
