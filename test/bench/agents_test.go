package main

import "testing"

// TestOrderIsBalanced: within a round nobody comes twice, and in all rounds each follows each other equally often.
func TestOrderIsBalanced(t *testing.T) {
	for n := 2; n <= 7; n++ {
		follows := map[[2]int]int{}
		rounds := balancedRounds(n, 1)
		for round := range rounds {
			seen := map[int]bool{}
			o := order(n, round)
			for i, v := range o {
				seen[v] = true
				if i > 0 {
					follows[[2]int{o[i-1], v}]++
				}
			}
			if len(seen) != n {
				t.Errorf("%d in a round of %d: %v", len(seen), n, o)
			}
		}
		if len(follows) != n*(n-1) {
			t.Errorf("of %d, %d pairs follow one another, want %d", n, len(follows), n*(n-1))
		}
		for pair, times := range follows {
			if want := rounds / n; times != want {
				t.Errorf("of %d, %v follow one another %d times, want %d", n, pair, times, want)
			}
		}
	}
}

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		in        []float64
		low, high float64
	}{
		{[]float64{3}, 3, 3},
		{[]float64{5, 1, 2, 4, 3}, 1, 5},
		{[]float64{6, 5, 4, 3, 2, 1}, 1, 6},
		{[]float64{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 3, 10}, // 96 %; the next smaller one 85 %
	} {
		if low, high := interval(c.in); low != c.low || high != c.high {
			t.Errorf("%v: %v to %v, want %v to %v", c.in, low, high, c.low, c.high)
		}
	}
}
