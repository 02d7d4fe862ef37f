package agent

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/metrics"
	"github.com/weft-mesh/weft/internal/traffic"
)

// DefaultMetricsAddress is that of weft agent's metrics: on loopback, because they tell who talks to whom.
const DefaultMetricsAddress = "127.0.0.1:15020"

const (
	metricsFlag = "--metrics-address"
	// metricsRetry is how long the agent waits before it tries a metrics' address again that is in use.
	metricsRetry = 10 * time.Second
)

// metricsHandler answers Prometheus.
func (a *Agent) metricsHandler() http.Handler {
	var requests prometheus.Collector = a.requests
	if a.cfg.IstioMetrics {
		requests = traffic.NewIstio(a.requests, a.connections)
	}
	return metrics.Handler(a.view(), a.proxy.Metrics, a.connections, a.datagrams, requests)
}

// serveMetrics serves h at the metrics' address. If the address is in use it waits until it is free.
func (a *Agent) serveMetrics(ctx context.Context, h http.Handler, retry time.Duration) error {
	l := a.metricsSocket
	if l == nil {
		a.cfg.Log.Warn("metrics are not served yet: the address is in use by another process; choose another, or none, by "+metricsFlag,
			"address", a.cfg.MetricsAddress)
	}
	for l == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
		l, _ = net.Listen("tcp", a.cfg.MetricsAddress)
	}
	return serveOutside(ctx, l, h)
}
