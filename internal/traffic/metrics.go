package traffic

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Metric describes a metric for the reference.
type Metric struct {
	Name, Type, Help string
	Labels           []string

	desc *prometheus.Desc
}

func metric(name, kind, help string, more ...string) Metric {
	labels := slices.Concat(labelNames, more)
	return Metric{Name: name, Type: kind, Help: help, Labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
}

var (
	opened      = metric("weft_tcp_connections_opened_total", "counter", "TCP connections that were established.")
	closed      = metric("weft_tcp_connections_closed_total", "counter", "TCP connections that have ended: forwarded, or failed if they never were established or broke.", "verdict")
	refused     = metric("weft_tcp_connections_refused_total", "counter", "TCP connections that the mesh refused, by reason.", "reason")
	sent        = metric("weft_tcp_sent_bytes_total", "counter", "Bytes from the source to the destination, of TCP connections that have ended.")
	received    = metric("weft_tcp_received_bytes_total", "counter", "Bytes from the destination to the source, of TCP connections that have ended.")
	retransmits = metric("weft_tcp_retransmits_total", "counter", "TCP segments that the reporter sent again, of connections in the kernel that have ended.")
	rtt         = metric("weft_tcp_rtt_seconds", "histogram", "Smoothed round trip time at the end of a TCP connection in the kernel.")
)

// Metrics lists all that the package exports.
func Metrics() []Metric {
	return []Metric{requestsTotal, requestSeconds, copiesTotal, opened, closed, refused, sent, received, retransmits, rtt, exchanges, udpSent, udpReceived, questions, answerTime}
}

// Describe implements prometheus.Collector.
func (c *Connections) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range []Metric{opened, closed, refused, sent, received, retransmits, rtt} {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Connections) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.metrics() {
		ch <- m
	}
}

// metrics makes what is collected, so that nobody waits for a reader while counting is held up.
func (c *Connections) metrics() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets.expire(c.now().Add(-IdleTime))
	var out []prometheus.Metric
	for l, s := range c.sets.kept {
		t := &s.counts
		count := func(m Metric, n uint64, more ...string) {
			out = append(out, prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(n), l.values(more...)...))
		}
		count(opened, t.opened)
		count(closed, t.forwarded, "forwarded")
		count(closed, t.failed, "failed")
		for reason, n := range t.refused {
			count(refused, n, reason)
		}
		count(sent, t.sent)
		count(received, t.received)
		count(retransmits, t.retransmits)
		if t.rtt.counts != nil {
			out = append(out, t.rtt.metric(rtt.desc, rttBuckets, 1, l.values()))
		}
	}
	return out
}
