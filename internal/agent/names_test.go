package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/tunnel"
	"github.com/weft-mesh/weft/xds"
)

// TestNamedConnections: a connection that Envoy passes on by its server name is one flow, that of Envoy's own connection, with the
// route and the Service, whichever report comes first.
func TestNamedConnections(t *testing.T) {
	const pod = "shop/app"
	app, own := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.1:50000")
	service, backend := netip.MustParseAddrPort("10.96.0.1:443"), netip.MustParseAddrPort("10.0.0.2:8443")
	var began time.Time
	kernel := func(kind datapath.EventKind, verdict datapath.Verdict, local, remote, original netip.AddrPort) func(a *Agent) {
		return func(a *Agent) {
			a.connection(datapath.Event{
				Kind: kind, Verdict: verdict, Workload: pod, Local: local, Remote: remote, Original: original, Sent: 1, Time: time.Now(),
				Duration: time.Since(began) + time.Millisecond,
			})
		}
	}
	envoy := netip.MustParseAddrPort("127.0.0.1:15005")
	opened, closed := kernel(datapath.EventOpened, datapath.VerdictL7, app, envoy, service), kernel(datapath.EventClosed, datapath.VerdictL7, app, envoy, service)
	onward := kernel(datapath.EventClosed, datapath.VerdictKernel, own, backend, backend)
	other := kernel(datapath.EventClosed, datapath.VerdictKernel, netip.MustParseAddrPort("10.0.0.1:50001"), backend, backend)
	word := func(open bool) func(a *Agent) {
		return func(a *Agent) {
			x := &xds.Flow{Open: open, Outbound: true, Owner: pod, Source: app, Time: began, Named: &xds.Named{Route: "TLSRoute/shop/a", Service: service, Onward: own}}
			if !open {
				x.Duration = time.Since(began)
			}
			a.accessLog(x)
		}
	}
	carried := func(open bool) func(a *Agent) {
		return func(a *Agent) {
			x := &tunnel.Flow{Open: open, Outbound: true, Workload: pod, Source: own, Destination: backend, Time: time.Now()}
			a.tunnelFlow(x)
		}
	}
	wait := func(d time.Duration) func(*Agent) { return func(*Agent) { time.Sleep(d) } }
	again := func(*Agent) { began = time.Now() }
	const by, without = "TLSRoute/shop/a shop/named", " "
	for name, c := range map[string]struct {
		reports []func(a *Agent)
		want    []string // route and Service of each flow
	}{
		"short":                       {[]func(a *Agent){opened, onward, closed, wait(time.Second), word(true), word(false)}, []string{by}},
		"its end alone is told":       {[]func(a *Agent){opened, onward, closed, wait(time.Second), word(false)}, []string{by}},
		"long":                        {[]func(a *Agent){opened, wait(time.Second), word(true), wait(time.Hour), onward, closed, wait(time.Second), word(false)}, []string{by}},
		"the kernel is late":          {[]func(a *Agent){opened, word(true), word(false), wait(time.Second), onward, closed}, []string{by}},
		"by weft tunnel":              {[]func(a *Agent){opened, carried(true), wait(time.Second), word(true), wait(time.Hour), carried(false), closed, word(false)}, []string{by, by}},
		"Envoy says nothing of it":    {[]func(a *Agent){opened, onward, closed}, []string{without, without + "shop/named"}},
		"another one beside":          {[]func(a *Agent){opened, word(true), other, onward, closed, word(false)}, []string{by, without}},
		"another one later":           {[]func(a *Agent){opened, word(true), onward, closed, word(false), wait(time.Hour), again, onward}, []string{by, without}},
		"an agent that came meantime": {[]func(a *Agent){onward, closed, word(false)}, []string{without}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began = time.Now()
				got := flowsOf(t, func(a *Agent) {
					w := a.st.Write(a.st.Services)
					a.st.Services.Put(w, &model.Service{Namespace: "shop", Name: "named", Addresses: []netip.Addr{service.Addr()}})
					w.Commit()
					for _, report := range c.reports {
						report(a)
					}
					time.Sleep(2 * detectionWait)
					synctest.Wait()
					if len(a.names.held)+len(a.names.words)+a.names.count > 0 {
						t.Errorf("%v, %v are kept", a.names.held, a.names.words)
					}
				})
				var said []string
				for _, f := range got {
					said = append(said, f.Route+" "+f.Destination.Service)
				}
				slices.Sort(said)
				want := slices.Sorted(slices.Values(c.want))
				if !slices.Equal(said, want) {
					t.Errorf("%q, want %q", said, want)
				}
			})
		})
	}
}

// TestNamesAreBounded: what finds no room is shown at once, and nothing waits of a workload that has no such connection.
func TestNamesAreBounded(t *testing.T) {
	shown := 0
	n := newNames(func(observe.Flow) { shown++ })
	n.wait = time.Hour
	flow := func(workload string, port uint16) observe.Flow {
		return observe.Flow{Protocol: model.TCP, SeenAt: observe.AtSource, Source: observe.Peer{Workload: workload, Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)}}
	}
	n.flow(flow("shop/other", 1))
	if shown != 1 {
		t.Error("a flow waits for nothing")
	}
	n.opened("shop/app")
	for i := range uint16(2 * maxDetections) {
		n.flow(flow("shop/app", 10_000+i))
		n.passedOn(onward{"shop/app", 30_000 + i}, passedByName{route: "a"})
	}
	for i := range 2 * maxDetections {
		n.opened(fmt.Sprint("shop/app", i))
	}
	if n.count != maxDetections || shown != 1+maxDetections || len(n.words) > maxDetections || len(n.asking) > maxDetections {
		t.Errorf("%d held, %d shown, %d words, %d workloads", n.count, shown, len(n.words), len(n.asking))
	}
	for key := range n.held {
		n.release(key)
	}
	n.opened("shop/app")
	n.lost()
	before := shown
	n.flow(flow("shop/app", 1))
	if shown != before+1 {
		t.Error("a flow waits for a connection whose end may have been lost")
	}
}
