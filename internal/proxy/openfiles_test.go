package proxy

import "testing"

func TestConnectionsWithFiles(t *testing.T) {
	for _, c := range []struct{ files, most, want uint64 }{
		{1 << 20, 100_000, 100_000},
		{416_384, 100_000, 100_000},
		{65_536, 100_000, 24_576},
		{20_000, 100_000, 7500},
		{1024, 100_000, 384},
		{20_000, 100, 100},
		{1, 100, 1},
	} {
		if got := connectionsWith(c.files, c.most); got != c.want {
			t.Errorf("%d open files, at most %d connections: %d, want %d", c.files, c.most, got, c.want)
		}
	}
}
