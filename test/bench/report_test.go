package main

import (
	"strings"
	"testing"
	"time"
)

func TestDisturbedRoundsAreMarked(t *testing.T) {
	for want, in := range map[string][]float64{"-": nil, "10%": {0.02, 0.1}, "40% (disturbed 2 of 3)": {0.4, 0.01, 0.11}} {
		if got := others(figures{Others: in}); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
	r := &report{Requests: []figures{{Way: direct, Connections: 1, Rounds: []float64{1}, Others: []float64{0.5}}}}
	var b strings.Builder
	r.print(&b)
	if !strings.Contains(b.String(), "disturbed 1 of 1") {
		t.Errorf("not in\n%s", b.String())
	}
}

func TestMarksOfAuthenticatedPaths(t *testing.T) {
	one := func(way string, n int, rate float64, p99, proxies time.Duration) figures {
		return figures{Way: way, Connections: n, Rounds: []float64{rate}, P99: p99, ProxyCPU: proxies}
	}
	r := &report{
		Bytes:     weftMTLS,
		Requests:  []figures{one(weftMTLS, openers, 290, time.Millisecond, 0), one(sidecarsTLSH2, openers, 100, 0, 0)},
		Opened:    []figures{one(weftMTLS, openers, 110, 0, 400*time.Microsecond), one(sidecarsTLSH2, openers, 100, 0, 0)},
		OpenedFIN: []figures{one(weftMTLS, openers, 125, 0, 290*time.Microsecond), one(sidecarsTLSH2, openers, 100, 0, 0)},
		Unread:    []figures{one(weftMTLS, openers, 1, 5*time.Millisecond, 0)},
		Idle:      []idleFigures{{weftMTLS, 8000, 50e6, 190e6}, {sidecarsTLSH1, 8000, 0, 900e6}},
	}
	r.mark()
	var passed []string
	for _, m := range r.Marks {
		if m.Pass {
			passed = append(passed, m.Name)
		}
	}
	if len(r.Marks) != 7 || len(passed) != 3 {
		t.Errorf("%d marks, passed %q; want 7, of which connections closed with FIN (2) and memory", len(r.Marks), passed)
	}
}
