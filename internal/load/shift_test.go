package load_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

func TestShift(t *testing.T) {
	for _, tc := range []struct{ before, after float64 }{{0.1, 0.5}, {0, 1}, {0.5, 0.1}, {1, 0.5}} {
		rng := rand.New(rand.NewPCG(1, 2))
		for _, at := range []int{0, 1, 500, 1990, 2000} {
			hits := make([]bool, 2000)
			for i := range hits {
				p := tc.before
				if i >= at {
					p = tc.after
				}
				hits[i] = rng.Float64() < p
			}
			got, latest := load.Shift(hits, tc.before, tc.after)
			if math.Abs(float64(got-at)) > 25 || latest < got || latest > got+50 {
				t.Errorf("%v to %v at %d: found at %d to %d", tc.before, tc.after, at, got, latest)
			}
		}
	}
	if got, latest := load.Shift(nil, 0.1, 0.5); got != 0 || latest != 0 {
		t.Errorf("nothing: %d to %d", got, latest)
	}
}

func TestWithin(t *testing.T) {
	for _, tc := range []struct {
		k, n int
		want bool
	}{{100, 1000, true}, {130, 1000, true}, {70, 1000, true}, {140, 1000, false}, {60, 1000, false}, {0, 1000, false}, {500, 1000, false}} {
		if got := load.Within(tc.k, tc.n, 0.1, 4); got != tc.want {
			t.Errorf("%d of %d: %v", tc.k, tc.n, got)
		}
	}
}

func TestSeriesSortsByStart(t *testing.T) {
	var s load.Series
	t0 := time.Now()
	for _, r := range []load.Result{
		{Start: t0.Add(3), Status: 200, Backend: "c"}, {Start: t0.Add(1), Status: 200, Backend: "a"},
		{Start: t0.Add(2), Status: 503}, {Start: t0, Status: 200, Backend: "early"},
	} {
		s.Add(r)
	}
	got := s.Since(t0.Add(1))
	if len(got) != 2 || got[0].Backend != "a" || got[1].Backend != "c" {
		t.Errorf("%+v", got)
	}
}
