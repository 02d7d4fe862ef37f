package agent

import "testing"

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 300}, {10 << 20, 120}, {30 << 20, 40}, {200 << 20, 40},
	} {
		if got := percentFor(c.live); got != c.want {
			t.Errorf("a heap of %d bytes may grow by %d%%, want %d%%", c.live, got, c.want)
		}
	}
}
