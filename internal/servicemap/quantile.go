package servicemap

import "github.com/weft-mesh/weft/internal/model"

// quantile returns the time in seconds within which a share of the requests was answered, from counts in each of
// model.DurationBuckets; nil if there are none. Within a bucket it takes them as evenly spread, as Prometheus'
// histogram_quantile does; beyond the last bound it returns that bound.
func quantile(share float64, counts []float64) *float64 {
	bounds := model.DurationBuckets
	if len(counts) != len(bounds)+1 {
		return nil
	}
	var all float64
	for _, n := range counts {
		all += n
	}
	if all <= 0 {
		return nil
	}
	const unit = 1e-6 // of the bounds, in seconds
	wanted, below, lower := share*all, 0.0, 0.0
	for i, upper := range bounds {
		if n := counts[i]; n > 0 && below+n >= wanted {
			out := (lower + (upper-lower)*(wanted-below)/n) * unit
			return &out
		}
		below += counts[i]
		lower = upper
	}
	out := lower * unit
	return &out
}
