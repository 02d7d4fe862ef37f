package traffic

import "github.com/prometheus/client_golang/prometheus"

// rttBuckets are upper bounds, in seconds.
var rttBuckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1}

// histogram counts values in buckets. Its zero value is empty.
type histogram struct {
	counts []uint64 // of each bucket alone, the last one without an upper bound
	sum    float64
}

func (h *histogram) observe(bounds []float64, v float64) {
	i := 0
	for i < len(bounds) && v > bounds[i] {
		i++
	}
	h.add(bounds, i, 1, v)
}

// add counts n values with a sum in a bucket.
func (h *histogram) add(bounds []float64, bucket int, n uint64, sum float64) {
	if h.counts == nil {
		h.counts = make([]uint64, len(bounds)+1)
	}
	h.counts[bucket] += n
	h.sum += sum
}

// merge adds what another histogram with the same bounds has counted.
func (h *histogram) merge(other histogram) {
	if h.counts == nil {
		h.counts = make([]uint64, len(other.counts))
	}
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.sum += other.sum
}

// metric returns the histogram, with its bounds and its sum multiplied by a unit.
func (h *histogram) metric(d *prometheus.Desc, bounds []float64, unit float64, labels []string) prometheus.Metric {
	buckets, n := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, b := range bounds {
		n += h.counts[i]
		buckets[b*unit] = n
	}
	n += h.counts[len(bounds)]
	return prometheus.MustNewConstHistogram(d, n, h.sum*unit, buckets, labels...)
}
