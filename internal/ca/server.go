package ca

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/connlimit"
	"github.com/weft-mesh/weft/internal/kube/access"
	"github.com/weft-mesh/weft/mtls"
)

const (
	maxToken = 16 << 10 // bytes
	// maxConns bounds the connections, of which an agent has a handful. Tokens are seen only after a connection is there.
	maxConns      = 16384
	maxConnsOfOne = 256 // address
)

// server answers agents.
type server struct {
	cfg       Config
	authority *authority
	reviews   reviewer
	slots     slots
	refusals  access.Refusals
	log       *slog.Logger
}

func newServer(cfg Config, a *authority, reviews reviewer) *server {
	return &server{cfg: cfg, authority: a, reviews: reviews, log: cfg.Log}
}

// serve answers until the context ends.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+mtls.SignPath, s.sign)
	for path, handle := range s.cfg.Streams {
		mux.HandleFunc("GET "+path, s.stream(handle))
	}
	srv := &http.Server{
		Handler: mux, TLSConfig: s.authority.tlsConfig(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 2 * maxToken,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 16},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes that strangers break off
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(connlimit.Listen(l, maxConns, maxConnsOfOne), "", "") }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// Those who wait for an answer get it.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		_ = srv.Close() // it is over anyway
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// sign handles a request.
func (s *server) sign(w http.ResponseWriter, r *http.Request) {
	node, done := s.authenticate(w, r)
	if node == "" {
		return
	}
	defer done()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mtls.MaxRequest))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	} else if err != nil {
		return // who asked is gone
	}
	request, err := parseRequest(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.answer(r.Context(), node, request)) // who asked may be gone
}

// stream handles requests that last. They hold no slot once it is known who asks: what serves them bounds them by node.
func (s *server) stream(handle func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		node, done := s.authenticate(w, r)
		if node == "" {
			return
		}
		done()
		handle(w, r, node)
	}
}

// authenticate returns the node whose agent asks, and a function that must be called when the request is done. It answers
// those that it does not believe, and returns "" for them.
func (s *server) authenticate(w http.ResponseWriter, r *http.Request) (node string, done func()) {
	source, _, _ := net.SplitHostPort(r.RemoteAddr)
	if !s.slots.take(source) {
		busy.Inc()
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the CA is busy", http.StatusServiceUnavailable)
		return "", nil
	}
	done = func() { s.slots.give(source) }
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" || len(token) > maxToken {
		done()
		strangers.Inc()
		http.Error(w, "no bearer token", http.StatusUnauthorized)
		return "", nil
	}
	if s.refusals.TooMany(source, token, time.Now()) {
		done()
		strangers.Inc()
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many tokens of this address were refused", http.StatusTooManyRequests)
		return "", nil
	}
	node, err := agentNode(r.Context(), s.reviews, s.cfg.Cluster, s.cfg.Namespace, token)
	if err != nil {
		done()
		if errors.Is(err, errToken) || errors.Is(err, errAgent) {
			s.refusals.Refused(source, time.Now())
		}
		s.refuse(w, r, err)
		return "", nil
	}
	s.refusals.Believe(token, time.Now())
	return node, done
}

// refuse tells an agent why it is not believed.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	strangers.Inc()
	status, level := http.StatusServiceUnavailable, slog.LevelWarn
	switch {
	case errors.Is(err, errToken): // anybody can send one, as often as they like
		status, level = http.StatusUnauthorized, slog.LevelDebug
	case errors.Is(err, errAgent):
		status = http.StatusForbidden
	}
	s.log.Log(r.Context(), level, "an agent is not believed", "from", r.RemoteAddr, "error", err)
	http.Error(w, err.Error(), status)
}

// answer has a result for each CSR of a node's agent.
func (s *server) answer(ctx context.Context, node string, request *mtls.SignRequest) *mtls.SignResponse {
	out := &mtls.SignResponse{Results: make([]mtls.SignResult, len(request.CSRs))}
	end := time.Now().Add(lag) // for all of them
	for i, der := range request.CSRs {
		w, err := parseCSR(s.cfg.TrustDomain, der)
		if err == nil {
			err = allowed(ctx, s.cfg.Cluster, s.cfg.Namespace, node, w, end)
		}
		if err == nil {
			out.Results[i].Chain, err = s.authority.sign(w.id, w.public, time.Now())
		}
		if err != nil {
			answers.WithLabelValues("refused").Inc()
			out.Results[i].Error = err.Error()
			s.log.Warn("an SVID is refused", "node", node, "error", err)
			continue
		}
		answers.WithLabelValues("signed").Inc()
		s.log.Debug("an SVID was signed", "node", node, "identity", w.id)
	}
	return out
}
