package traffic

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/model"
)

// Istio is Requests that gives its counts, and those of Connections, also under the names of Istio's standard metrics, which dashboards and tools that judge canaries
// ask for (https://istio.io/latest/docs/reference/config/metrics/).
//
// Those tools ask for what the destination reports. Here the source's node or the Gateway counts a request that a route
// applies to, so such a request is given once for each reporter, and a destination's own count of requests is left out.
type Istio struct {
	requests    *Requests
	connections *Connections
}

// NewIstio returns a collector to register in place of r, so that Envoy is asked once for both names.
func NewIstio(r *Requests, c *Connections) Istio { return Istio{r, c} }

var (
	istioLabels = []string{
		"reporter", "source_workload", "source_workload_namespace", "source_principal",
		"destination_workload", "destination_workload_namespace", "destination_principal",
		"destination_service", "destination_service_name", "destination_service_namespace",
		"request_protocol", "connection_security_policy",
	}
	istioRequestLabels = slices.Concat(istioLabels, []string{"response_code", "response_flags", "grpc_response_status"})

	istioRequests = prometheus.NewDesc("istio_requests_total", "weft_requests_total by Istio's name.", istioRequestLabels, nil)
	istioDuration = prometheus.NewDesc("istio_request_duration_milliseconds", "weft_request_duration_seconds by Istio's name.", istioLabels, nil)
	istioOpened   = prometheus.NewDesc("istio_tcp_connections_opened_total", "weft_tcp_connections_opened_total by Istio's name.", istioLabels, nil)
	istioClosed   = prometheus.NewDesc("istio_tcp_connections_closed_total", "weft_tcp_connections_closed_total by Istio's name.", istioLabels, nil)
	istioSent     = prometheus.NewDesc("istio_tcp_sent_bytes_total", "weft_tcp_received_bytes_total by Istio's name: what the destination sent.", istioLabels, nil)
	istioReceived = prometheus.NewDesc("istio_tcp_received_bytes_total", "weft_tcp_sent_bytes_total by Istio's name: what the destination received.", istioLabels, nil)
)

// Describe implements prometheus.Collector.
func (i Istio) Describe(ch chan<- *prometheus.Desc) {
	i.requests.Describe(ch)
	for _, d := range []*prometheus.Desc{istioRequests, istioDuration, istioOpened, istioClosed, istioSent, istioReceived} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (i Istio) Collect(ch chan<- prometheus.Metric) {
	i.requests.Collect(ch)
	for _, m := range slices.Concat(i.requests.istio(), i.connections.istio()) {
		ch <- m
	}
}

// istioSet is what a series is counted by: values of istioLabels, and of a request its code, flags and status.
type istioSet struct {
	labels            [12]string
	code, flags, grpc string
}

// istioReporters returns those under which a set's requests are given.
func (l *Labels) istioReporters() []string {
	if l.Reporter == AtDestination {
		return nil
	}
	return []string{AtSource, AtDestination}
}

func (l *Labels) istio(reporter, protocol string) (out [12]string) {
	v := l.values()
	ns, name := v[10], v[9]
	host := name + "." + ns + ".svc.cluster.local"
	if name == Unknown {
		host = Unknown
	}
	security := "none"
	if l.MTLS {
		security = "mutual_tls"
	}
	return [12]string{reporter, v[1], v[3], or(v[4]), v[5], v[7], or(v[8]), host, name, ns, protocol, security}
}

// istio adds up sets that differ only in what Istio has no label for.
func (r *Requests) istio() []prometheus.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts, durations := map[istioSet]uint64{}, map[[12]string]*histogram{}
	for l, s := range r.sets.kept {
		for _, reporter := range l.istioReporters() {
			for o, n := range s.counts.outcomes {
				counts[istioSet{l.istio(reporter, o.protocol), o.code, o.flags, o.grpc}] += n
			}
			if s.counts.duration.counts != nil {
				key := l.istio(reporter, "http")
				if durations[key] == nil {
					durations[key] = &histogram{}
				}
				durations[key].merge(s.counts.duration)
			}
		}
	}
	out := make([]prometheus.Metric, 0, len(counts)+len(durations))
	for k, n := range counts {
		labels := append(k.labels[:], k.code, k.flags, k.grpc)
		out = append(out, prometheus.MustNewConstMetric(istioRequests, prometheus.CounterValue, float64(n), labels...))
	}
	for k, h := range durations {
		out = append(out, h.metric(istioDuration, model.DurationBuckets, 1e-3, k[:]))
	}
	return out
}

func (c *Connections) istio() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	type counts struct{ opened, closed, sent, received uint64 }
	all := map[[12]string]*counts{}
	for l, s := range c.sets.kept {
		key := l.istio(l.Reporter, "tcp")
		if all[key] == nil {
			all[key] = &counts{}
		}
		t, n := &s.counts, all[key]
		n.opened += t.opened
		n.closed += t.forwarded + t.failed
		n.sent += t.received
		n.received += t.sent
	}
	out := make([]prometheus.Metric, 0, 4*len(all))
	for k, n := range all {
		for _, m := range []struct {
			desc *prometheus.Desc
			n    uint64
		}{{istioOpened, n.opened}, {istioClosed, n.closed}, {istioSent, n.sent}, {istioReceived, n.received}} {
			out = append(out, prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(m.n), k[:]...))
		}
	}
	return out
}
