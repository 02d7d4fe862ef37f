package controller

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/leaderelection"
)

// leading has the name that Kubernetes' own components give it.
var leading = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "leader_election_master_status", Help: "1 while this replica holds the Lease.",
}, []string{"name"})

func init() {
	prometheus.MustRegister(leading)
	leaderelection.SetProvider(leaderMetrics{})
}

type leaderMetrics struct{}

func (leaderMetrics) NewLeaderMetric() leaderelection.LeaderMetric { return leaderMetric{} }

type leaderMetric struct{}

func (leaderMetric) On(name string)  { leading.WithLabelValues(name).Set(1) }
func (leaderMetric) Off(name string) { leading.WithLabelValues(name).Set(0) }

// SlowpathExercised is of clients older than the API of Leases.
func (leaderMetric) SlowpathExercised(string) {}
