package traffic

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/model"
)

// AtMirror is the reporter of copies of requests: the node that sends them.
const AtMirror = "mirror"

var copiesTotal = metric("weft_mirrored_requests_total", "counter",
	"Copies of requests that were sent to a mirror's Service, by its result: answered, too_large for a copy and not sent, or failed. The source is not known. Copies that were dropped because too many were under way are counted in weft_lost_events_total.",
	"result")

// copies are the counts of the copies for one Service, by result.
type copies map[string]uint64

// countCopies counts a statistic of copies by the Service that they are for.
func (r *Requests) countCopies(name string, n uint64) {
	tags, ok := parseName(name, model.CopyCounter)
	if !ok || n == 0 {
		return
	}
	l := Labels{Reporter: AtMirror, Service: serviceOf(tags[model.TagCluster])}
	if l.Service == "" {
		l.Service = serviceOf(tags[model.TagAsked])
	}
	c := r.copies.at(l, r.now())
	if *c == nil {
		*c = copies{}
	}
	(*c)[copyResult(tags)] += n
}

// copyResult says what became of copies. One that is too large is answered 413 before it has an upstream cluster of its own.
func copyResult(tags map[string]string) string {
	switch flags := tags[model.TagFlags]; {
	case flags != "" && flags != "-":
		return "failed"
	case tags[model.TagCode] == "413" && tags[model.TagAsked] != "" && tags[model.TagAsked] != "-":
		return "too_large"
	}
	return "answered"
}

func (r *Requests) copyMetrics() []prometheus.Metric {
	r.copies.expire(r.now().Add(-IdleTime))
	var out []prometheus.Metric
	for l, s := range r.copies.kept {
		for result, n := range s.counts {
			out = append(out, prometheus.MustNewConstMetric(copiesTotal.desc, prometheus.CounterValue, float64(n), l.values(result)...))
		}
	}
	return out
}
