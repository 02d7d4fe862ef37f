package agent

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestMetricsAddressInUse: another process on the metrics' port does not stop the agent, which serves them once it is gone.
func TestMetricsAddressInUse(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a := socketAgent(t, t.TempDir(), false)
	a.cfg.MetricsAddress = other.Addr().String()
	if err := a.listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.serveMetrics(ctx, http.NotFoundHandler(), time.Millisecond) }()
	select {
	case err := <-done:
		t.Fatalf("it gave up: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		r, err := http.Get("http://" + a.cfg.MetricsAddress + "/")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode != http.StatusNotFound { // the handler of this test
				t.Errorf("it answers %s", r.Status)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
