package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
)

// TestCleanupLeftBehind asks an agent that began after the cleanup, and one that began before it, once each.
func TestCleanupLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name    string
		started time.Time
		again   bool // it is asked again
	}{{"newer agent", time.Now().Add(time.Hour), false}, {"older agent", time.Now().Add(-time.Hour), true}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := net.Listen("unix", filepath.Join(dir, api.SocketName))
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan struct{}, 100)
			srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked <- struct{}{}
				_, _ = w.Write([]byte(`{"agent": {"pid": 1, "started": "` + c.started.Format(time.RFC3339) + `"}}`))
			})}
			go func() { _ = srv.Serve(l) }()
			t.Cleanup(func() { _ = srv.Close() })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- (&cleanup{run: dir, state: dir}).stay(ctx, "127.0.0.1:0") }()
			<-asked
			if c.again {
				<-asked
			} else {
				select {
				case <-asked:
					t.Error("the end of a newer agent is waited for")
				case <-time.After(2 * cleanupRetry):
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
