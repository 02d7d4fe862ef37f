package agent

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/xds"
)

// names adds to flows the TLSRoute by which Envoy passed a connection on, and the Service that the application connected to. The
// kernel or weft tunnel reports Envoy's own connection to the endpoint, with the endpoint and the identities. Only Envoy knows the
// route, and says so in its access log up to a second later. So flows of a workload that has connections to Envoy for this wait for
// Envoy's word. Flows of all others are shown at once.
type names struct {
	wait time.Duration
	show func(observe.Flow)

	mu     sync.Mutex
	asking map[string]*askedNames // by workload
	words  map[onward]passedByName
	held   map[onward][]*heldFlow
	count  int // of held
}

// askedNames are the connections of a workload to Envoy that go by their server name.
type askedNames struct {
	open  int
	until time.Time // flows wait until then, though none is open
}

// onward is Envoy's connection to an endpoint, which is the workload's own for the kernel: its source port tells it apart.
type onward struct {
	workload string // namespace/name
	port     uint16
}

// passedByName is Envoy's word on an onward connection.
type passedByName struct {
	route, service string
	began          time.Time
	ended          time.Time // zero while it lives
}

func newNames(show func(observe.Flow)) *names {
	return &names{wait: detectionWait, show: show, asking: map[string]*askedNames{}, words: map[onward]passedByName{}, held: map[onward][]*heldFlow{}}
}

// named reports whether an address is the one where Envoy reads server names.
func named(a netip.AddrPort) bool { return a.Addr().IsLoopback() && a.Port() == model.PortSNI }

// opened and closed count a workload's connections to Envoy.
func (n *names) opened(workload string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.asking[workload]
	if a == nil {
		if len(n.asking) >= maxDetections {
			n.forget()
		}
		a = &askedNames{}
		n.asking[workload] = a
	}
	a.open++
}

func (n *names) closed(workload string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.asking[workload]
	if a == nil { // opened under an agent before
		a = &askedNames{open: 1}
		n.asking[workload] = a
	}
	a.open, a.until = max(a.open-1, 0), time.Now().Add(n.wait)
}

// lost forgets which connections are open: the end of one may be among the events that were lost, and flows would wait for ever.
func (n *names) lost() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.asking)
}

// forget makes room: first of workloads that have no connection to Envoy now.
func (n *names) forget() {
	now := time.Now()
	for w, a := range n.asking {
		if a.open == 0 && now.After(a.until) {
			delete(n.asking, w)
		}
	}
	if len(n.asking) >= maxDetections {
		clear(n.asking)
	}
}

// flow shows a flow: with its route if it is known, and later if it may become known.
func (n *names) flow(f observe.Flow) {
	if n.hold(&f) {
		return
	}
	n.show(f)
}

// hold adds what is known of a flow, and reports whether it waits for more.
func (n *names) hold(f *observe.Flow) bool {
	key := onward{f.Source.Workload, f.Source.Address.Port()}
	if f.SeenAt != observe.AtSource || f.Protocol != model.TCP || f.HTTP != nil || key.workload == "" || key.port == 0 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if w, ok := n.words[key]; ok {
		if !f.Open {
			delete(n.words, key)
		}
		if w.of(f) {
			w.tell(f)
			return false
		}
	}
	a := n.asking[key.workload]
	if a == nil || a.open == 0 && time.Now().After(a.until) || n.count >= maxDetections {
		return false
	}
	h := &heldFlow{flow: *f}
	h.timer = time.AfterFunc(n.wait, func() { n.expired(key) })
	n.held[key] = append(n.held[key], h)
	n.count++
	return true
}

// of reports whether a flow is of this connection, and not of a later one from the same port.
func (w *passedByName) of(f *observe.Flow) bool { return w.ended.IsZero() || !earlier(w.ended, f) }

func (w *passedByName) tell(f *observe.Flow) {
	f.Route, f.Destination.Service = w.route, w.service
}

// expired shows flows of which Envoy said nothing, in their order.
func (n *names) expired(key onward) {
	n.mu.Lock()
	flows := n.release(key)
	n.mu.Unlock()
	for _, h := range flows {
		n.show(h.flow)
	}
}

// release takes the flows of a connection that wait. The lock is held.
func (n *names) release(key onward) []*heldFlow {
	flows := n.held[key]
	delete(n.held, key)
	n.count -= len(flows)
	for _, h := range flows {
		h.timer.Stop()
	}
	return flows
}

// passedOn takes Envoy's word, which it gives when the onward connection is established and when it has ended.
func (n *names) passedOn(key onward, w passedByName) {
	n.mu.Lock()
	flows := n.release(key)
	ended := false
	for _, h := range flows {
		if w.of(&h.flow) {
			w.tell(&h.flow)
			ended = ended || !h.flow.Open
		}
	}
	before, known := n.words[key]
	// At the end of a connection the word that was given at its start has been used, or the flow is still to come.
	if !ended && (w.ended.IsZero() || !known || before.began.Equal(w.began)) {
		if !known && len(n.words) >= maxDetections {
			clear(n.words)
		}
		n.words[key] = w
		if !w.ended.IsZero() {
			time.AfterFunc(n.wait, func() { n.drop(key, w) })
		}
	}
	n.mu.Unlock()
	for _, h := range flows {
		n.show(h.flow)
	}
}

// drop forgets the word on a connection that ended and of which no flow came.
func (n *names) drop(key onward, w passedByName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.words[key] == w {
		delete(n.words, key)
	}
}

// named takes Envoy's report of a connection that it passed on by its server name.
func (a *Agent) named(x *xds.Flow) {
	w := passedByName{route: x.Named.Route, service: observe.NewResolver(a.st).Peer(x.Named.Service).Service, began: x.Time}
	if !x.Open {
		w.ended = x.Time.Add(x.Duration)
		a.detections.passedOn(x.Owner, x.Source, w.ended)
	}
	a.names.passedOn(onward{x.Owner, x.Named.Onward.Port()}, w)
}
