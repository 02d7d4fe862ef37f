package agent

import (
	"net/netip"
	"strings"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/tunnel"
	"github.com/weft-mesh/weft/xds"
)

// connection turns an event of the kernel into a flow. A connection becomes a flow when it closes. Authenticated
// connections are left to Envoy and weft tunnel, which know the peer's identity.
func (a *Agent) connection(e datapath.Event) {
	// Of connections that Envoy reads requests of, the requests are counted and not the bytes to Envoy.
	requests := e.Verdict == datapath.VerdictL7 && !e.Inbound
	if requests && e.Kind == datapath.EventOpened && named(e.Remote) {
		a.names.opened(e.Workload)
	}
	if e.Verdict == datapath.VerdictMTLS || requests && e.Kind == datapath.EventOpened {
		return
	}
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Time: e.Time, Protocol: model.TCP, Verdict: observe.Forwarded, Layer: layers[e.Verdict], Duration: e.Duration,
		RTT: e.RTT, Retransmits: e.Retransmits, More: uint64(e.More),
	}
	local, remote := r.Peer(e.Local), r.Peer(e.Remote)
	if e.Workload != "" {
		r.Own(&local, e.Workload)
	}
	f.SeenAt = observe.AtSource
	if e.Inbound {
		f.SeenAt = observe.AtDestination
		f.Source, f.Destination, f.Sent, f.Received = remote, local, e.Received, e.Sent
	} else {
		if e.Backend.IsValid() {
			remote = r.Peer(e.Backend)
		} else if e.Remote.Addr().IsLoopback() {
			remote = r.Peer(e.Original)
		}
		remote.Service = r.Peer(e.Original).Service
		f.Source, f.Destination, f.Sent, f.Received = local, remote, e.Sent, e.Received
	}
	switch {
	case e.Kind == datapath.EventOpened:
		a.connections.Opened(&f)
		return
	case e.Kind == datapath.EventRefused:
		f.Verdict, f.Reason = observe.Refused, e.Reason.String()
	case !e.Inbound && e.Sent == 0:
		// The answer to the SYN counts as a byte that the peer acknowledged.
		f.Verdict, f.Reason = observe.Failed, "never established"
	}
	if !requests || f.Verdict == observe.Refused {
		a.connections.Ended(&f)
	}
	if requests && e.Kind == datapath.EventClosed && named(e.Remote) {
		a.names.closed(e.Workload)
	}
	if requests && e.Kind == datapath.EventClosed && detected(e.Remote) {
		a.detections.closed(e.Local, f)
		return
	}
	a.names.flow(f)
}

// lostEvents takes note of events of the kernel that did not come.
func (a *Agent) lostEvents(n uint64) {
	if n > 0 {
		a.names.lost()
	}
	a.flows.AddLost(n)
}

// report holds the fields that the reports of Envoy and of weft tunnel on an authenticated connection or a request share.
type report struct {
	time                time.Time // the start
	open                bool
	duration            time.Duration
	source, destination netip.AddrPort
	sent, received      uint64
	outbound            bool
	local, peer         model.Identity
	workload            string // the local one, if it is known
	stream              string // what both ends call it; "" for none
}

// flow returns the flow of a report, as forwarded. The time of a flow that has ended is its end.
func (a *Agent) flow(x report) observe.Flow {
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Time: x.time, Open: x.open, Protocol: model.TCP, Verdict: observe.Forwarded, Layer: observe.MTLS, Duration: x.duration,
		Source: r.Peer(x.source), Destination: r.Peer(x.destination), Sent: x.sent, Received: x.received, Stream: x.stream,
	}
	if !x.open {
		f.Time = x.time.Add(x.duration)
	}
	f.SeenAt = observe.AtDestination
	own, other := &f.Destination, &f.Source
	if x.outbound {
		f.SeenAt = observe.AtSource
		own, other = &f.Source, &f.Destination
	}
	own.Identity, other.Identity = x.local, x.peer
	if x.workload != "" && !strings.HasPrefix(x.workload, "gateway/") {
		r.Own(own, x.workload)
	}
	return f
}

// tunnelFlow turns a report of weft tunnel into a flow.
func (a *Agent) tunnelFlow(x *tunnel.Flow) {
	f := a.flow(report{
		time: x.Time, open: x.Open, duration: x.Duration, source: x.Source, destination: x.Destination,
		sent: x.Sent, received: x.Received, outbound: x.Outbound, local: x.Local, peer: x.Peer, workload: x.Workload,
	})
	switch {
	case x.Denied && x.Outbound:
		a.deny(&f, deniedThere)
	case x.Denied:
		a.deny(&f, deniedHere)
	case x.Failure != "":
		f.Verdict, f.Reason = observe.Failed, x.Failure
	}
	a.admit(&f)
	a.count(&f)
	a.names.flow(f)
}

var layers = map[datapath.Verdict]observe.Layer{
	datapath.VerdictKernel: observe.L4, datapath.VerdictL7: observe.L7, datapath.VerdictMTLS: observe.MTLS,
	datapath.VerdictRefused: observe.L4,
}

// accessLog turns a report of Envoy into a flow.
func (a *Agent) accessLog(x *xds.Flow) {
	if x.Detected {
		a.detections.passedOn(x.Owner, x.Source, x.Time.Add(x.Duration))
		return
	}
	if x.Named != nil {
		a.named(x)
		return
	}
	f := a.flow(report{
		time: x.Time, open: x.Open, duration: x.Duration, source: x.Source, destination: x.Destination,
		sent: x.Sent, received: x.Received, outbound: x.Outbound, local: x.Local, peer: x.Peer, workload: x.Owner, stream: x.Stream,
	})
	if q := x.Request; q != nil {
		f.Layer, f.Route = observe.L7, q.Route
		path, _, _ := strings.Cut(q.Path, "?")
		f.HTTP = &observe.Request{Method: q.Method, Host: q.Authority, Path: path, Status: q.Status}
		if q.Backend.IsValid() {
			f.HTTP.Backend = observe.NewResolver(a.st).Peer(q.Backend).Workload
		}
	}
	if x.Failure != "" {
		a.fail(&f, x.Failure)
	}
	a.admit(&f)
	if x.Request == nil {
		if !x.Open && x.Local == "" && f.Verdict == observe.Forwarded {
			a.connections.Opened(&f) // in the clear, Envoy reports the end alone
		}
		a.count(&f)
	}
	a.names.flow(f)
}

// count counts an authenticated connection, which is reported when it is open and when it ends.
func (a *Agent) count(f *observe.Flow) {
	if f.Open {
		a.connections.Opened(f)
	} else {
		a.connections.Ended(f)
	}
}

// What a flow that a policy refused is given as the reason, where it ends and where it begins.
const (
	deniedHere  = "no policy allows it"
	deniedThere = "no policy of the destination allows it"
)

// fail gives a flow the verdict and the reason of a failure that Envoy reports. Only Envoy's RBAC filters, which enforce
// policies, deny access or answer a tunnel with 403.
func (a *Agent) fail(f *observe.Flow, failure string) {
	switch {
	case strings.Contains(failure, "rbac_access_denied"):
		a.deny(f, deniedHere)
	case strings.Contains(failure, "tunnel_response:403"):
		a.deny(f, deniedThere)
	default:
		f.Verdict, f.Reason = observe.Failed, failure
	}
}

// admit names the rule that let a flow in where it ends, by the policies as they are now. Of a connection on whose port requests decide
// there is none.
func (a *Agent) admit(f *observe.Flow) {
	if f.Verdict != observe.Forwarded || f.SeenAt != observe.AtDestination {
		return
	}
	w, ok := a.st.Workloads.Get(a.st.Snapshot(), f.Destination.Workload)
	if !ok || w.Policy == nil {
		return
	}
	port, rule := f.Destination.Address.Port(), -1
	switch {
	case f.HTTP != nil:
		rule = w.Policy.AllowingRule(f.Source.Identity, port, f.HTTP.Method, f.HTTP.Path)
	case !w.Policy.InspectsPort(port):
		rule = w.Policy.AdmittingRule(f.Source.Identity, port)
	}
	if rule >= 0 {
		f.AllowedBy = w.Policy.Rules[rule].Of
	}
}

// deny marks a flow as refused by the policies that select its destination, as they are now.
func (a *Agent) deny(f *observe.Flow, reason string) {
	f.Verdict, f.Reason = observe.Refused, reason
	if w, ok := a.st.Workloads.Get(a.st.Snapshot(), f.Destination.Workload); ok && w.Policy != nil {
		f.Policies = w.Policy.Names
	}
}
