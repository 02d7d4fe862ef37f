package proxy

import "testing"

func TestConnectionsWithFiles(t *testing.T) {
	for _, c := range []struct{ files, most, want uint64 }{
		{1 << 20, 100_000, 100_000},
		{416_384, 100_000, 100_000},
		{65_536, 100_000, 21_845},
		{20_000, 100_000, 6666},
		{1024, 100_000, 341},
		{20_000, 100, 100},
		{1, 100, 1},
	} {
		got := connectionsWith(c.files, c.most)
		if got != c.want {
			t.Errorf("%d open files, at most %d connections: %d, want %d", c.files, c.most, got, c.want)
		}
		if used := got*filesPerConnection + Sessions(got); used > c.files && got > 1 {
			t.Errorf("%d connections and their share of sessions take %d of %d open files", got, used, c.files)
		}
	}
}
