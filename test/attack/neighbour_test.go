package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/observe"
)

// quietTime is how long the neighbour is measured before an attack and after it.
var quietTime = map[bool]time.Duration{false: time.Second, true: 5 * time.Second}[long]

const (
	// maxRatio bounds the neighbour's p99 under attack, as a multiple of what it is without, or under the control. slowest is what counts as slow at
	// all: below it a ratio says more about the machine than about the attack.
	maxRatio = 2.0
	slowest  = 25 * time.Millisecond
	// neighbourRate is in requests a second, each on a connection of its own, by each way.
	neighbourRate = 50
)

// way is one by which a neighbour's requests go.
type way struct {
	name string
	from *lab.Pod
	to   netip.AddrPort
}

// measured is what the neighbour noticed.
type measured map[string]*load.Report

// neighbour starts requests by each way: two pods of another tenant, and what a case has added.
func (a *arena) neighbour(t *testing.T) (stop func() measured) {
	t.Helper()
	running := map[string]*load.Running{}
	for _, w := range a.ways {
		r, err := load.Start(context.Background(), load.Config{
			URL: "http://" + w.to.String(), Dial: w.from.Dial,
			Workers: 8, Rate: neighbourRate, NewConnections: true, Timeout: 10 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		running[w.name] = r
	}
	return func() measured {
		out := measured{}
		for name, r := range running {
			out[name] = r.Stop()
			if out[name].Failed > 0 {
				t.Logf("%s: %v; flows of the neighbour that failed:\n%s", name, out[name].Failures(), a.failed(t))
			}
		}
		return out
	}
}

// failed returns the neighbour's last flows that were not served, a line of JSON each.
func (a *arena) failed(t *testing.T) string {
	t.Helper()
	q := api.FlowQuery{Limit: 20, Terms: observe.Terms{Namespace: []string{"bank"}, Verdict: []string{"refused", "failed"}}}
	var b strings.Builder
	out := json.NewEncoder(&b)
	if err := a.API.Flows(t.Context(), q, func(e observe.Event) error { return out.Encode(e) }); err != nil {
		t.Error(err)
	}
	return b.String()
}

func (a *arena) quiet(t *testing.T) measured {
	t.Helper()
	stop := a.neighbour(t)
	time.Sleep(quietTime)
	return stop()
}

// while measures the neighbour during f.
func (a *arena) while(t *testing.T, f func()) measured {
	t.Helper()
	stop := a.neighbour(t)
	f()
	return stop()
}

// join adds what the neighbour noticed another time.
func (m measured) join(o measured) {
	for name, r := range o {
		if m[name] == nil {
			m[name] = r
		} else {
			m[name].Join(r)
		}
	}
}

// machine reads what the machine's CPUs did, and what of it is the node's.
func (a *arena) machine(t *testing.T) load.Machine {
	t.Helper()
	st, err := a.Proxy.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := []int{st.PID}
	if st.Tunnel != nil {
		own = append(own, st.Tunnel.PID)
	}
	m, err := load.MachineNow(own...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// under is as inTurns, with one turn.
func (a *arena) under(t *testing.T, attack, control func()) string {
	t.Helper()
	return a.inTurns(t, 1, attack, control)
}

// inTurns runs an attack while the neighbour is served, some times. It fails the test if a request of the neighbour fails, or if
// they are too slow, and returns what the neighbour noticed, in words. attack returns when it is over. control is the same attack
// on a pod outside of the mesh, and nil if there is no such thing: the machine's part of what the neighbour notices is not the
// mesh's. It runs only by make attack, in turn with the attack, so that what disturbs the machine meets both.
func (a *arena) inTurns(t *testing.T, turns int, attack, control func()) string {
	t.Helper()
	meanwhile, without := measured{}, measured{}
	began := a.machine(t)
	before := a.quiet(t)
	for range turns {
		meanwhile.join(a.while(t, attack))
		if control != nil && long {
			without.join(a.while(t, control))
		}
	}
	after := a.quiet(t)
	others := a.machine(t).Others(began)
	var words []string
	for _, way := range a.ways {
		name := way.name
		m := meanwhile[name]
		for _, r := range []*load.Report{m, before[name], after[name]} {
			if r.Failed > 0 {
				t.Errorf("%d of the neighbour's %d requests failed, %s: %v", r.Failed, r.Requests, name, r.Failures())
			}
		}
		idle, now := max(before[name].Quantile(0.99), after[name].Quantile(0.99)), m.Quantile(0.99)
		base := "idle"
		if w := without[name]; w != nil && w.Quantile(0.99) > idle {
			idle, base = w.Quantile(0.99), "the control's"
		}
		if idle <= 0 {
			t.Fatalf("the neighbour had no answer without an attack, %s", name)
		}
		ratio := float64(now) / float64(idle)
		if long && ratio > maxRatio && now > slowest {
			t.Errorf("the neighbour's p99 grows from %s (%s) to %s, %s", idle, base, now, name)
		}
		words = append(words, fmt.Sprintf("%s p99 %.1fx of %s (%s)", name, ratio, idle.Round(100*time.Microsecond), base))
	}
	if others > load.DisturbedFrom {
		words = append(words, fmt.Sprintf("disturbed: others had %.0f%% of the machine", 100*others))
	}
	return strings.Join(words, ", ")
}

// contextFor is a context that ends after d, for calls that are shorter than the test.
func contextFor(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(d, cancel)
	return ctx
}
