package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// detections makes one flow of a connection to a port that may or may not speak HTTP. The kernel reports the application's
// connection to Envoy (loopback:15004) when it closes. If Envoy passed it on as bytes, Envoy's own connection is reported too, with
// the endpoint and the identities, and that report is the flow. It is the same with a connection that goes by its server name
// (loopback:15005). Envoy says so in its access log, up to a second later, or earlier
// if the application closes late. So a closed connection waits for Envoy's word, and is a flow of its own if there is none.
type detections struct {
	wait time.Duration
	show func(observe.Flow)

	mu sync.Mutex
	// held are closed connections, passed those of which Envoy's report came first, with the time of their end.
	held   map[detectedConnection]*heldFlow
	passed map[detectedConnection]time.Time
}

// detectedConnection is an application's connection to Envoy.
type detectedConnection struct {
	workload string         // namespace/name
	local    netip.AddrPort // the application's end
}

type heldFlow struct {
	flow  observe.Flow
	timer *time.Timer
}

// detectionWait is longer than Envoy keeps entries of its access log back, which is a second.
const detectionWait = 3 * time.Second

// maxDetections bounds both maps. Flows beyond it are shown at once, and reports beyond it make room by forgetting the others.
const maxDetections = 4096

func newDetections(show func(observe.Flow)) *detections {
	return &detections{wait: detectionWait, show: show, held: map[detectedConnection]*heldFlow{}, passed: map[detectedConnection]time.Time{}}
}

// closed takes the flow of a connection that the kernel reports.
func (d *detections) closed(local netip.AddrPort, f observe.Flow) {
	if shown := d.hold(detectedConnection{f.Source.Workload, local}, f); shown != nil {
		d.show(*shown)
	}
}

// hold returns the flow that must be shown at once, if there is one.
func (d *detections) hold(c detectedConnection, f observe.Flow) *observe.Flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end, ok := d.passed[c]; ok {
		delete(d.passed, c)
		if !earlier(end, &f) {
			return nil
		}
	}
	before := d.held[c] // the port is used again
	if before == nil && len(d.held) >= maxDetections {
		return &f
	}
	h := &heldFlow{flow: f}
	h.timer = time.AfterFunc(d.wait, func() { d.expired(c, h) })
	d.held[c] = h
	if before != nil && before.timer.Stop() {
		return &before.flow
	}
	return nil
}

// expired shows a flow of which Envoy said nothing.
func (d *detections) expired(c detectedConnection, h *heldFlow) {
	d.mu.Lock()
	if d.held[c] == h {
		delete(d.held, c)
	}
	d.mu.Unlock()
	d.show(h.flow)
}

// passedOn takes Envoy's word that it passed on as bytes the connection of a workload that ended then.
func (d *detections) passedOn(workload string, local netip.AddrPort, end time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := detectedConnection{workload, local}
	if h := d.held[c]; h != nil && !earlier(end, &h.flow) && h.timer.Stop() {
		delete(d.held, c)
		return
	}
	if len(d.passed) >= maxDetections {
		clear(d.passed)
	}
	d.passed[c] = end
}

// earlier reports whether a connection ended before that of a flow began: the port was used again.
func earlier(end time.Time, f *observe.Flow) bool {
	return f.Duration > 0 && end.Before(f.Time.Add(-f.Duration))
}

// detected reports whether an address is one where Envoy finds out what a connection speaks, or which server name it is for.
func detected(a netip.AddrPort) bool {
	return a.Addr().IsLoopback() && a.Port() == model.PortDetect || named(a)
}
