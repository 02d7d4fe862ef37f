package datapath

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-mesh/weft/internal/model"
)

// undivided finds no Division.
func undivided(string) (*model.Division, bool) { return nil, false }

// noCallers finds no Division for the callers of a namespace.
func noCallers(string) map[uint8]*model.Division { return nil }

// share is a backend with a weight and so many endpoints 10.<i>.x.y.
func share(i int, weight uint32, endpoints int) model.Share {
	s := model.Share{Backend: model.Backend{Name: fmt.Sprint("b", i), Weight: weight}}
	for n := range endpoints {
		a := netip.AddrFrom4([4]byte{10, byte(i), byte(n >> 8), byte(n)})
		s.Endpoints = append(s.Endpoints, model.Endpoint{Address: netip.AddrPortFrom(a, 80)})
	}
	return s
}

// TestDivided counts the slots of each endpoint.
func TestDivided(t *testing.T) {
	invalid := share(3, 5, 1)
	invalid.Invalid = true
	for _, test := range []struct {
		name   string
		shares []model.Share
		want   string
	}{
		{"no backend", nil, "map[]"},
		{"90 to 10", []model.Share{share(1, 90, 1), share(2, 10, 1)}, "map[10.1.0.0:80:9 10.2.0.0:80:1]"},
		{"one with two endpoints", []model.Share{share(1, 1, 2), share(2, 1, 1)}, "map[10.1.0.0:80:1 10.1.0.1:80:1 10.2.0.0:80:2]"},
		{"no weight", []model.Share{share(1, 0, 2), share(2, 7, 1)}, "map[10.2.0.0:80:1]"},
		{"without endpoints", []model.Share{share(1, 1, 0), share(2, 3, 1)}, "map[10.2.0.0:80:3 127.0.0.1:0:1]"},
		{"invalid", []model.Share{invalid, share(2, 5, 1)}, "map[10.2.0.0:80:1 127.0.0.1:0:1]"},
		{"the same twice", []model.Share{share(1, 1, 1), share(1, 2, 1)}, "map[10.1.0.0:80:3]"},
		{"one in a million", []model.Share{share(1, 999_999, 1), share(2, 1, 1)}, "map[10.1.0.0:80:511 10.2.0.0:80:1]"},
	} {
		counts := map[string]int{}
		for _, b := range divided(&model.Division{Shares: test.shares}, false) {
			counts[decode(b).String()]++
		}
		if got := fmt.Sprint(counts); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	if got := divided(&model.Division{Shares: []model.Share{share(1, 1, 1)}}, true); len(got) != 1 || decode(got[0]).String() != "[::1]:0" {
		t.Errorf("a backend without IPv6 has the slots %v", got)
	}
}

// TestDividedByWeight: whatever the weights and endpoints, the shares are as near as the slots allow, and these are bounded.
func TestDividedByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shares []model.Share
		total := 0.0
		for i := range rapid.IntRange(1, 16).Draw(t, "backends") {
			s := share(i, rapid.Uint32Range(1, 1_000_000).Draw(t, "weight"), rapid.IntRange(0, 1000).Draw(t, "endpoints"))
			total += float64(s.Weight)
			shares = append(shares, s)
		}
		slots := divided(&model.Division{Shares: shares}, false)
		if len(slots) == 0 || len(slots) > model.MaxDivision {
			t.Fatalf("%d slots", len(slots))
		}
		for i, s := range shares {
			if len(s.Endpoints) == 0 {
				continue
			}
			n := 0
			for _, b := range slots {
				if a := decode(b).Addr(); a.As4()[0] == 10 && int(a.As4()[1]) == i {
					n++
				}
			}
			got, want := float64(n)/float64(len(slots)), float64(s.Weight)/total
			if n == 0 || math.Abs(got-want) > float64(len(shares)+1)/model.MaxDivision {
				t.Errorf("backend %d has %d of %d slots, want %f", i, n, len(slots), want)
			}
		}
	})
}

// TestArrangeSeveral: a backend that has several slots keeps as many of them as it is to have.
func TestArrangeSeveral(t *testing.T) {
	e := func(n byte) weftEndpoint {
		return encode(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 80))
	}
	a, b, c := e(1), e(2), e(3)
	for _, test := range []struct{ have, want, out []weftEndpoint }{
		{nil, []weftEndpoint{a, a, b}, []weftEndpoint{a, a, b}},
		{[]weftEndpoint{b, a, a}, []weftEndpoint{a, a, b}, []weftEndpoint{b, a, a}},
		{[]weftEndpoint{a, a, a, b}, []weftEndpoint{a, b, c, c}, []weftEndpoint{a, c, c, b}},
		{[]weftEndpoint{a, b, a, b}, []weftEndpoint{b, b}, []weftEndpoint{b, b}},
	} {
		if got := arrange(test.have, test.want); !slices.Equal(got, test.out) {
			t.Errorf("%v from %v: %v, want %v", test.want, test.have, got, test.out)
		}
	}
}
