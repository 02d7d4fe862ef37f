package traffic

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/model"
)

var (
	requestsTotal = metric("weft_requests_total", "counter",
		"HTTP requests: forwarded, refused by a policy, or failed, which Envoy answered itself or nobody waited for.",
		"protocol", "verdict", "response_class", "grpc_status")
	requestSeconds = metric("weft_request_duration_seconds", "histogram",
		"Time from the first byte of an HTTP request to the last byte of its answer, where there was a whole answer.")
)

// updateTimeout bounds how long a scrape waits for Envoy.
const updateTimeout = 5 * time.Second

// Describe implements prometheus.Collector.
func (r *Requests) Describe(ch chan<- *prometheus.Desc) {
	ch <- requestsTotal.desc
	ch <- requestSeconds.desc
	ch <- copiesTotal.desc
}

// Collect implements prometheus.Collector. While Envoy does not answer, what was counted before is collected.
func (r *Requests) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), updateTimeout)
	defer cancel()
	_ = r.Update(ctx) // weft_proxy_live says it
	for _, m := range r.metrics() {
		ch <- m
	}
}

func (r *Requests) metrics() []prometheus.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets.expire(r.now().Add(-IdleTime))
	var out []prometheus.Metric
	type series struct{ protocol, verdict, class, grpc string }
	for l, s := range r.sets.kept {
		counts := map[series]uint64{}
		for o, n := range s.counts.outcomes {
			counts[series{o.protocol, o.verdict, class(o.code), o.grpc}] += n
		}
		for k, n := range counts {
			out = append(out, prometheus.MustNewConstMetric(requestsTotal.desc, prometheus.CounterValue, float64(n),
				l.values(k.protocol, k.verdict, k.class, k.grpc)...))
		}
		if s.counts.duration.counts != nil {
			out = append(out, s.counts.duration.metric(requestSeconds.desc, model.DurationBuckets, 1e-6, l.values()))
		}
	}
	return append(out, r.copyMetrics()...)
}
