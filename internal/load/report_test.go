package load

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

// Joined reports say what one says that saw all.
func TestJoin(t *testing.T) {
	at := time.Now()
	results := []Result{
		{Start: at, Took: 3 * time.Second, Status: 200, Backend: "a"},
		{Start: at.Add(time.Second), Took: time.Second, Status: 503},
		{Start: at.Add(2 * time.Second), Took: 4 * time.Second, Err: errors.New("read: gone")},
		{Start: at.Add(3 * time.Second), Took: 2 * time.Second, Status: 200, Backend: "b"},
	}
	for cut := range len(results) + 1 {
		all, first, rest := newReport(), newReport(), newReport()
		for i, r := range results {
			all.add(r)
			if i < cut {
				first.add(r)
			} else {
				rest.add(r)
			}
		}
		first.Join(rest)
		for _, q := range []float64{0, 0.5, 0.99} {
			if got, want := first.Quantile(q), all.Quantile(q); got != want {
				t.Errorf("cut %d, quantile %g: %v, want %v", cut, q, got, want)
			}
		}
		all.Quantile(0)
		if !reflect.DeepEqual(first, all) {
			t.Errorf("cut %d:\n%+v, want\n%+v", cut, first, all)
		}
	}
}
