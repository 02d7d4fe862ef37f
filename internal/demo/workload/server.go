// Package workload is what runs in the pods of the examples: a server that says who it is, and a client that counts
// who answered (weft demo-server, weft demo-client).
package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// Serve answers HTTP (1.1, and 2 with prior knowledge) on an address until ctx ends: every request with 200, the
// server's name in the header X-Served-By, and a line that says who saw which request from where.
func Serve(ctx context.Context, name, listen string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("demo server %s: %w", name, err)
	}
	s := &http.Server{Handler: handler(name), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("demo server %s: %w", name, err)
	}
	return nil
}

func handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(load.BackendHeader, name)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, "%s saw %s %s%s from %s\n", name, r.Method, r.Host, r.URL.Path, r.RemoteAddr)
	})
}
