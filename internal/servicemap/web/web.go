package web

import (
	"context"
	"crypto/tls"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/connlimit"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
)

//go:embed static
var static embed.FS

// View is what a reader may see.
type View interface {
	Graph(ctx context.Context) (*servicemap.Graph, error)
	Flows(ctx context.Context, p servicemap.Pair) ([]observe.Flow, error)
}

// Error is an answer other than 200.
type Error struct {
	Status int
	Text   string
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Authenticate returns what the bearer of a token may see. source is the address that the request came from. An *Error is
// answered as it is.
type Authenticate func(ctx context.Context, source, token string) (View, error)

// security are the headers of every answer. Nothing is loaded from elsewhere, run that is not a file of this server, or shown
// in a frame.
var security = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
	"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
}

// Handler serves the page.
func Handler(authenticate Authenticate) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", files())
	mux.HandleFunc("GET /v1/map", func(w http.ResponseWriter, r *http.Request) {
		serve(w, r, authenticate, func(v View) (any, error) { return v.Graph(r.Context()) })
	})
	mux.HandleFunc("GET /v1/map/flows", func(w http.ResponseWriter, r *http.Request) {
		serve(w, r, authenticate, func(v View) (any, error) { return v.Flows(r.Context(), servicemap.ParsePair(r.URL.Query())) })
	})
	return secure(mux)
}

// files serves the page and what it loads.
func files() http.Handler {
	below, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is a part of this program
	}
	return http.FileServerFS(below)
}

// secure adds the security headers to what a handler answers.
func secure(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for key, value := range security {
			w.Header().Set(key, value)
		}
		h.ServeHTTP(w, r)
	})
}

func serve(w http.ResponseWriter, r *http.Request, authenticate Authenticate, answer func(View) (any, error)) {
	source, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		source = r.RemoteAddr
	}
	v, err := authenticate(r.Context(), source, Token(r))
	var out any
	if err == nil {
		out, err = answer(v)
	}
	if err != nil {
		status := http.StatusBadGateway
		if e := (*Error)(nil); errors.As(err, &e) {
			status = e.Status
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // an error is a client that went away
}

// Token returns the bearer token of a request; "" for none.
func Token(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// Bounds of a server.
const (
	maxConns  = 256
	maxHeader = 64 << 10
)

// Serve answers at a listener until ctx ends: in the clear, or with a configuration by TLS, and by HTTP/2 if that offers it.
func Serve(ctx context.Context, l net.Listener, config *tls.Config, h http.Handler) error {
	s := &http.Server{
		Handler: h, TLSConfig: config, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	l = connlimit.Listen(l, maxConns, maxConns)
	serve := s.Serve
	if config != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("service map: %w", err)
	}
	return nil
}
