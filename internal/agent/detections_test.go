package agent

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/xds"
)

// TestDetectedConnections: a connection that Envoy passes on as bytes is the flow of Envoy's own connection, whichever report comes
// first. One of which Envoy says nothing is a flow of its own.
func TestDetectedConnections(t *testing.T) {
	const pod = "shop/app"
	local, backend := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:80")
	own := netip.MustParseAddrPort("10.0.0.1:50000") // Envoy's connection
	app := func(a *Agent, duration time.Duration) {
		a.connection(datapath.Event{
			Kind: datapath.EventClosed, Verdict: datapath.VerdictL7, Workload: pod, Local: local, Sent: 1, Duration: duration, Time: time.Now(),
			Remote: netip.MustParseAddrPort("127.0.0.1:15004"), Original: netip.MustParseAddrPort("10.96.0.1:80"),
		})
	}
	onward := func(a *Agent) {
		a.connection(datapath.Event{Kind: datapath.EventClosed, Verdict: datapath.VerdictKernel, Workload: pod, Local: own, Remote: backend, Original: backend, Sent: 1})
	}
	bytes := func(a *Agent) {
		a.accessLog(&xds.Flow{Detected: true, Outbound: true, Owner: pod, Source: local, Time: time.Now(), Duration: time.Millisecond})
	}
	for name, c := range map[string]struct {
		report func(a *Agent)
		want   []observe.Layer
	}{
		"requests":            {func(a *Agent) { app(a, 0) }, []observe.Layer{observe.L7}},
		"bytes":               {func(a *Agent) { onward(a); app(a, 0); time.Sleep(time.Second); bytes(a) }, []observe.Layer{observe.L4}},
		"the app closes late": {func(a *Agent) { onward(a); bytes(a); time.Sleep(time.Hour); app(a, 2*time.Hour) }, []observe.Layer{observe.L4}},
		"bytes, then requests from the same port": {
			func(a *Agent) { onward(a); app(a, 0); bytes(a); time.Sleep(time.Second); app(a, time.Second) },
			[]observe.Layer{observe.L4, observe.L7},
		},
		"requests twice from the same port": {func(a *Agent) { app(a, 0); app(a, 0) }, []observe.Layer{observe.L7, observe.L7}},
		"of a connection whose end the kernel did not report": {
			func(a *Agent) { onward(a); bytes(a); time.Sleep(time.Minute); app(a, time.Second) },
			[]observe.Layer{observe.L4, observe.L7},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := flowsOf(t, func(a *Agent) {
					c.report(a)
					time.Sleep(detectionWait)
					synctest.Wait()
					if len(a.detections.held)+len(a.detections.passed) > 0 {
						t.Errorf("%d held, %d passed are kept", len(a.detections.held), len(a.detections.passed))
					}
				})
				if len(got) != len(c.want) {
					t.Fatalf("%d flows: %+v, want %v", len(got), got, c.want)
				}
				for i, f := range got {
					if f.Layer != c.want[i] {
						t.Errorf("flow %d: %s, want %s", i, f.Layer, c.want[i])
					}
				}
			})
		})
	}
}

// TestDetectionsAreBounded: what finds no room is shown at once.
func TestDetectionsAreBounded(t *testing.T) {
	shown := 0
	d := newDetections(func(observe.Flow) { shown++ })
	d.wait = time.Hour
	for i := range 2 * maxDetections {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10_000+i))
		d.closed(at, observe.Flow{})
		d.passedOn("shop/other", at, time.Now())
	}
	if len(d.held) != maxDetections || shown != maxDetections || len(d.passed) > maxDetections {
		t.Errorf("%d held, %d shown, %d passed", len(d.held), shown, len(d.passed))
	}
	for _, h := range d.held {
		h.timer.Stop()
	}
}
