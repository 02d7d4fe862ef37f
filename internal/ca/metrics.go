package ca

import "github.com/prometheus/client_golang/prometheus"

var (
	answers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weft_ca_svids_total", Help: "SVIDs that agents asked for, by what became of it: signed or refused.",
	}, []string{"result"})
	strangers = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weft_ca_unauthorized_requests_total", Help: "Requests whose token was no agent's, or could not be reviewed.",
	})
	busy = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weft_ca_busy_total", Help: "Requests that were told to come again.",
	})
	rootEnds = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weft_ca_root_not_after_timestamp_seconds", Help: "When the root that signs ends; 0 before there is one.",
	})
	intermediateEnds = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weft_ca_intermediate_not_after_timestamp_seconds", Help: "When this replica's intermediate ends; it is replaced at half of its life.",
	})
)

// Metrics lists all that the package exports.
func Metrics() []prometheus.Collector {
	return []prometheus.Collector{answers, strangers, busy, rootEnds, intermediateEnds}
}

func init() { prometheus.MustRegister(Metrics()...) }
