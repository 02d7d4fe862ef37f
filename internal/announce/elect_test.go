package announce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var (
	a1 = netip.MustParseAddr("10.89.1.1")
	a6 = netip.MustParseAddr("fd00::1")
)

func node(name string, change ...func(*Candidate)) Candidate {
	c := Candidate{Node: name, Ready: true}
	for _, f := range change {
		f(&c)
	}
	return c
}

func unready(c *Candidate) { c.Ready = false }

func claims(addr netip.Addr, term uint64) func(*Candidate) {
	return func(c *Candidate) { c.Claims = map[netip.Addr]uint64{addr: term} }
}

func on(prefix string) func(*Candidate) {
	return func(c *Candidate) { c.Links = append(c.Links, netip.MustParsePrefix(prefix)) }
}

func TestElect(t *testing.T) {
	// By their hashes for 10.89.1.1 the order is x, z, y; for fd00::1 it is y, z, x.
	for name, tc := range map[string]struct {
		addr netip.Addr
		of   []Candidate
		want string
	}{
		"nobody":                             {a1, nil, ""},
		"nobody is ready":                    {a1, []Candidate{node("x", unready), node("y", unready, claims(a1, 3))}, ""},
		"by hash":                            {a1, []Candidate{node("y"), node("x"), node("z")}, "x"},
		"by hash, IPv6":                      {a6, []Candidate{node("x"), node("z")}, "z"},
		"the first is gone":                  {a1, []Candidate{node("y"), node("z")}, "z"},
		"the first is not ready":             {a1, []Candidate{node("x", unready), node("y"), node("z")}, "z"},
		"who has it keeps it":                {a1, []Candidate{node("x"), node("y", claims(a1, 1)), node("z")}, "y"},
		"another address is none of it":      {a1, []Candidate{node("x"), node("y", claims(a6, 1)), node("z")}, "x"},
		"who has it and is not ready":        {a1, []Candidate{node("x", claims(a1, 1), unready), node("z")}, "z"},
		"the later term":                     {a1, []Candidate{node("x", claims(a1, 1)), node("y", claims(a1, 2))}, "y"},
		"one term: by hash":                  {a1, []Candidate{node("y", claims(a1, 2)), node("z", claims(a1, 2))}, "z"},
		"on link before the better hash":     {a1, []Candidate{node("x", on("10.1.0.1/16")), node("y", on("10.89.0.3/16")), node("z")}, "y"},
		"on link, by hash":                   {a1, []Candidate{node("x"), node("y", on("10.89.0.3/16")), node("z", on("10.89.0.4/16"))}, "z"},
		"who has it keeps it, on link or no": {a1, []Candidate{node("x", on("10.89.0.4/16")), node("z", claims(a1, 1))}, "z"},
	} {
		if got := Elect(tc.addr, tc.of); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// someCandidates draws nodes of different names.
func someCandidates(t *rapid.T) []Candidate {
	names := rapid.SliceOfNDistinct(rapid.IntRange(0, 50), 0, 12, rapid.ID).Draw(t, "nodes")
	var out []Candidate
	for _, n := range names {
		c := node(fmt.Sprint("n", n))
		c.Ready = rapid.IntRange(0, 4).Draw(t, "ready") > 0
		if term := rapid.Uint64Range(0, 6).Draw(t, "term"); term > 3 {
			claims(a1, term)(&c)
		}
		if rapid.Bool().Draw(t, "on link") {
			on("10.89.0.1/16")(&c)
		}
		out = append(out, c)
	}
	return out
}

func TestElectProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := someCandidates(t)
		got := Elect(a1, all)
		shuffled := slices.Clone(all)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if other := Elect(a1, shuffled); other != got {
			t.Fatalf("in another order: %q, %q", got, other)
		}
		ready := slices.ContainsFunc(all, func(c Candidate) bool { return c.Ready })
		if (got != "") != ready || got != "" && !slices.ContainsFunc(all, func(c Candidate) bool { return c.Ready && c.Node == got }) {
			t.Fatalf("elected %q of %v", got, all)
		}
		for i, c := range all {
			rest := slices.Delete(slices.Clone(all), i, i+1)
			if without := Elect(a1, rest); c.Node != got && without != got {
				t.Fatalf("%s went, and the address moved from %q to %q", c.Node, got, without)
			}
		}
		// A node that comes takes nothing from one that has it; else the address stays or is the newcomer's.
		have := slices.ContainsFunc(all, func(c Candidate) bool { return c.Ready && len(c.Claims) > 0 })
		with := Elect(a1, append(all, node("new", on("10.89.0.9/16"))))
		if have && with != got || with != got && with != "new" {
			t.Fatalf("a node came, and the address moved from %q to %q", got, with)
		}
	})
}

func TestElectSpreads(t *testing.T) {
	var nodes []Candidate
	for i := range 5 {
		nodes = append(nodes, node(fmt.Sprint("worker-", i)))
	}
	count := map[string]int{}
	addr := netip.MustParseAddr("10.89.1.0")
	for range 1000 {
		count[Elect(addr, nodes)]++
		addr = addr.Next()
	}
	for n, got := range count {
		if got < 150 || got > 250 {
			t.Errorf("%s has %d of 1000 addresses", n, got)
		}
	}
}
