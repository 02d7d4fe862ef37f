package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

// report is what one end says of the connection from a port, a time after the first.
func report(at observe.Side, port uint16, after time.Duration) observe.Event {
	return observe.Event{Flow: &observe.Flow{
		Time: time.Unix(1900000000, 0).Add(after), Verdict: observe.Forwarded, Layer: observe.L4, SeenAt: at,
		Source:      observe.Peer{Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Workload: "shop/app"},
		Destination: observe.Peer{Address: netip.MustParseAddrPort("10.0.0.2:80"), Workload: "shop/web"},
	}}
}

// printing collects what is printed.
func printing(lines *[]string) func(string, observe.Event) error {
	return func(node string, e observe.Event) error {
		if e.Flow == nil {
			*lines = append(*lines, fmt.Sprint("lost ", e.Lost))
		} else {
			*lines = append(*lines, fmt.Sprintf("%s %d %s", node, e.Flow.Source.Address.Port(), e.Flow.SeenAt))
		}
		return nil
	}
}

func TestOneLineForBothEnds(t *testing.T) {
	var lines []string
	p := newPairs(false, 0, printing(&lines))
	for _, x := range []struct {
		node string
		e    observe.Event
	}{
		{"n2", report(observe.AtDestination, 1, 0)},
		{"n1", report(observe.AtSource, 2, 0)},
		{"n1", observe.Event{Lost: 3}},
		{"n1", report(observe.AtSource, 1, time.Millisecond)},
		{"n2", report(observe.AtDestination, 1, time.Minute)}, // the port is used again, and its source's report is lost
		{"n2", report(observe.AtDestination, 2, time.Second)},
		{"n2", report(observe.AtDestination, 2, time.Second)}, // a third report pairs with none
	} {
		if err := p.take(x.node, x.e); err != nil {
			t.Fatal(err)
		}
	}
	if len(lines) > 0 {
		t.Errorf("%q before all are there", lines)
	}
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	want := []string{"n1 2 both ends", "n1 1 both ends", "n2 2 destination", "lost 3", "n2 1 destination"} // by time
	if !slices.Equal(lines, want) || len(p.by) > 0 {
		t.Errorf("%q, want %q; %d wait", lines, want, len(p.by))
	}
}

// TestLastLines: what is cut are lines, and not the pairs of those that are left.
func TestLastLines(t *testing.T) {
	var lines []string
	err := paired(false, 2, printing(&lines), func(take func(string, observe.Event) error) error {
		for port := range uint16(4) {
			after := time.Duration(port) * time.Second
			err := errors.Join(take("n1", report(observe.AtSource, 1+port, after)), take("n2", report(observe.AtDestination, 1+port, after)))
			if err != nil {
				return err
			}
		}
		return take("n1", observe.Event{Lost: 3})
	})
	if want := []string{"n1 3 both ends", "n1 4 both ends", "lost 3"}; err != nil || !slices.Equal(lines, want) {
		t.Errorf("%q, want %q; %v", lines, want, err)
	}
}

// TestFollowedPairs: a flow waits for its pair for a time, and what came later waits with it.
func TestFollowedPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		p := newPairs(true, 0, printing(&lines))
		take := func(node string, e observe.Event) {
			t.Helper()
			if err := p.take(node, e); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if !slices.Equal(lines, want) {
				t.Errorf("%s: %q, want %q", what, lines, want)
			}
			lines = nil
		}
		take("n1", report(observe.AtSource, 1, 0))
		take("n1", observe.Event{Lost: 3})
		expect("one end alone")
		take("n2", report(observe.AtDestination, 1, 0))
		expect("both ends", "n1 1 both ends", "lost 3")
		take("n1", report(observe.AtSource, 2, 0))
		time.Sleep(pairWait / 2)
		take("n1", report(observe.AtSource, 3, 0))
		time.Sleep(pairWait / 2)
		expect("the first has waited", "n1 2 source")
		take("n2", report(observe.AtDestination, 3, 0))
		take("n2", report(observe.AtDestination, 2, 0)) // too late
		expect("the second has its pair", "n1 3 both ends")
		time.Sleep(pairWait)
		expect("late", "n2 2 destination")
		for port := range uint16(maxAwaited + 1) {
			take("n1", report(observe.AtSource, 1+port, 0))
		}
		expect("too many wait", "n1 1 source")
		if err := p.flush(); err != nil || len(lines) != maxAwaited || len(p.by) > 0 {
			t.Errorf("%d lines, %v; %d wait", len(lines), err, len(p.by))
		}
	})
}

// TestPairsPassErrors: an error of printing ends what asks for flows.
func TestPairsPassErrors(t *testing.T) {
	closed := errors.New("closed")
	p := newPairs(true, 0, func(string, observe.Event) error { return closed })
	if err := p.take("", observe.Event{Lost: 1}); !errors.Is(err, closed) {
		t.Errorf("%v", err)
	}
}
