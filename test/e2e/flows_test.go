//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/test/e2e/workload"
)

// flow is load that runs while a test does something: from a Deployment's pod, or from this machine, which is outside
// of the cluster.
type flow struct {
	name              string
	namespace, client string // Deployment whose pod sends; "" is this machine
	spec              workload.Spec
	mayFail           int // requests that a known fault may cost
}

// flows are load that is being made.
type flows struct {
	t       testing.TB
	running []flow
	here    map[string]*load.Running
}

// begin starts load; end stops it, at the latest with the test.
func begin(t testing.TB, all ...flow) *flows {
	t.Helper()
	f := &flows{t: t, here: map[string]*load.Running{}}
	t.Cleanup(func() { _, _ = f.stop() }) // nothing runs any more where the test came to its end
	for _, fl := range all {
		if fl.client == "" {
			running, err := load.Start(context.Background(), fl.spec.Config())
			if err != nil {
				t.Fatal(err)
			}
			f.here[fl.name] = running
		} else {
			spec, err := json.Marshal(fl.spec)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in(t, fl.namespace, fl.client, spec, "start", fl.name); err != nil {
				t.Fatal(err)
			}
		}
		f.running = append(f.running, fl)
	}
	return f
}

// stop ends what runs and gives what became of it, by name.
func (f *flows) stop() (map[string]workload.Summary, error) {
	out := map[string]workload.Summary{}
	var first error
	for _, fl := range f.running {
		if fl.client == "" {
			out[fl.name] = workload.Summarise(f.here[fl.name].Stop())
			continue
		}
		b, err := in(f.t, fl.namespace, fl.client, nil, "stop", fl.name)
		var s workload.Summary
		if err == nil {
			err = json.Unmarshal([]byte(b), &s)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("end load %s: %w", fl.name, err)
		}
		out[fl.name] = s
	}
	f.running = nil
	return out, first
}

// end stops the load, prints what became of it, and fails the test for each request that failed.
func (f *flows) end() map[string]workload.Summary {
	f.t.Helper()
	names := f.running
	sums, err := f.stop()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, fl := range names {
		s := sums[fl.name]
		f.t.Logf("%-24s %6d requests, %d failed, p50 %s, p99 %s, worst %s", fl.name, s.Requests, s.Failed,
			round(s.P50), round(s.P99), round(s.Max))
		figures.add(f.t.Name(), fl.name, map[string]any{"requests": s.Requests, "failed": s.Failed})
		if s.Requests == 0 {
			f.t.Errorf("%s: no request was sent", fl.name)
		}
		if s.Failed > fl.mayFail {
			f.t.Errorf("%s: %d of %d requests failed, from %s on for %s: %s", fl.name, s.Failed, s.Requests,
				s.FirstFailure.Format("15:04:05.000"), round(s.Outage), strings.Join(s.Failures, ", "))
		}
	}
	return sums
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// both gives a flow twice: over connections that are kept, and over one for each request.
func both(f flow) []flow {
	kept, opened := f, f
	kept.name += ", kept"
	opened.name += ", new"
	opened.spec.NewConnections = true
	return []flow{kept, opened}
}
