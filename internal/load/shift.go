package load

import (
	"math"
	"slices"
	"time"
)

// Shift finds when a share changed: given whether each of a series of requests went to a backend (in order of time),
// and the shares before and after, it returns the index of the first request that most likely fell under the new
// share, by maximum likelihood, and the last index that is not much less likely (by a factor of e^2, which a change at
// another place passes about once in 20 times). len(hits) means that the new share never began.
func Shift(hits []bool, before, after float64) (likeliest, latest int) {
	gain := [2]float64{math.Log(clamp(1-after) / clamp(1-before)), math.Log(clamp(after) / clamp(before))}
	sums := make([]float64, len(hits)+1) // of "new since i" over "old to the end"
	likeliest = len(hits)
	for i := len(hits) - 1; i >= 0; i-- {
		sums[i] = sums[i+1] + gain[0]
		if hits[i] {
			sums[i] = sums[i+1] + gain[1]
		}
		if sums[i] > sums[likeliest] {
			likeliest = i
		}
	}
	for latest = len(hits); sums[latest] < sums[likeliest]-2; latest-- {
	}
	return likeliest, latest
}

func clamp(p float64) float64 { return min(max(p, 1e-6), 1-1e-6) }

// Within reports whether k hits in n tries are what a share p gives: no further from n*p than z standard deviations
// of the binomial distribution. z = 4 is wrong once in 16,000 times.
func Within(k, n int, p, z float64) bool {
	return math.Abs(float64(k)-float64(n)*p) <= z*math.Sqrt(float64(n)*p*(1-p))
}

// Bound is the half width that Within allows, as a share.
func Bound(n int, p, z float64) float64 { return z * math.Sqrt(p*(1-p)/float64(n)) }

// Series collects results in the order in which they were sent, for Shift.
type Series struct{ results []Result }

// Add is a Config's Observe.
func (s *Series) Add(r Result) { s.results = append(s.results, r) }

// Since gives the answers to requests that began at t or later, sorted by their start.
func (s *Series) Since(t time.Time) []Result {
	var out []Result
	for _, r := range s.results {
		if !r.Failed() && !r.Start.Before(t) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Result) int { return a.Start.Compare(b.Start) })
	return out
}
