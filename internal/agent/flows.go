package agent

import (
	"strings"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/tunnel"
	"github.com/weft-mesh/weft/xds"
)

// connection turns an event of the kernel into a flow. Opened connections are told about when they close, and
// authenticated ones by Envoy, which knows who was at the other end.
func (a *Agent) connection(e datapath.Event) {
	if e.Kind == datapath.EventOpened || e.Verdict == datapath.VerdictMTLS {
		return
	}
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Time: e.Time, Protocol: model.TCP, Verdict: observe.Forwarded, Layer: layers[e.Verdict], Duration: e.Duration,
		RTT: e.RTT, Retransmits: e.Retransmits,
	}
	local, remote := r.Peer(e.Local), r.Peer(e.Remote)
	if e.Workload != "" {
		local.Workload = e.Workload
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
	case e.Kind == datapath.EventRefused:
		f.Verdict, f.Reason = observe.Refused, e.Reason.String()
	case !e.Inbound && e.Sent == 0:
		// The answer to the SYN counts as a byte that the peer acknowledged.
		f.Verdict, f.Reason = observe.Failed, "never established"
	}
	a.flows.Add(f)
}

// tunnelled turns what weft tunnel reports into a flow.
func (a *Agent) tunnelled(x *tunnel.Flow) {
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Time: x.Time, Open: x.Open, Protocol: model.TCP, Verdict: observe.Forwarded, Layer: observe.MTLS, Duration: x.Duration,
		Source: r.Peer(x.Source), Destination: r.Peer(x.Destination), Sent: x.Sent, Received: x.Received,
	}
	if !x.Open {
		f.Time = x.Time.Add(x.Duration)
	}
	f.SeenAt = observe.AtDestination
	own, other := &f.Destination, &f.Source
	if x.Outbound {
		f.SeenAt = observe.AtSource
		own, other = &f.Source, &f.Destination
	}
	own.Identity, other.Identity, own.Workload = x.Local, x.Peer, x.Workload
	switch {
	case x.Denied && x.Outbound:
		f.Verdict, f.Reason = observe.Refused, "no policy of the destination allows it"
	case x.Denied:
		f.Verdict, f.Reason = observe.Refused, "no policy allows it"
	case x.Failure != "":
		f.Verdict, f.Reason = observe.Failed, x.Failure
	}
	a.flows.Add(f)
}

var layers = map[datapath.Verdict]observe.Layer{
	datapath.VerdictKernel: observe.L4, datapath.VerdictL7: observe.L7, datapath.VerdictMTLS: observe.MTLS,
	datapath.VerdictRefused: observe.L4,
}

// accessLog turns what Envoy reports into a flow.
func (a *Agent) accessLog(x *xds.Flow) {
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Time: x.Time, Open: x.Open, Protocol: model.TCP, Verdict: observe.Forwarded, Layer: observe.MTLS, Duration: x.Duration,
		Source: r.Peer(x.Source), Destination: r.Peer(x.Destination), Sent: x.Sent, Received: x.Received,
	}
	if !x.Open {
		f.Time = x.Time.Add(x.Duration)
	}
	f.SeenAt = observe.AtDestination
	own, other := &f.Destination, &f.Source
	if x.Outbound {
		f.SeenAt = observe.AtSource
		own, other = &f.Source, &f.Destination
	}
	own.Identity, other.Identity = x.Local, x.Peer
	if !strings.HasPrefix(x.Owner, "gateway/") {
		own.Workload = x.Owner
	}
	if q := x.Request; q != nil {
		f.Layer = observe.L7
		path, _, _ := strings.Cut(q.Path, "?")
		f.HTTP = &observe.Request{Method: q.Method, Host: q.Authority, Path: path, Status: q.Status}
	}
	if x.Failure != "" {
		f.Verdict, f.Reason = outcome(x.Failure)
	}
	a.flows.Add(f)
}

// outcome puts what Envoy says of a refusal in the mesh's own words: its RBAC filters are how policies are enforced, and
// a tunnel is answered with 403 by them alone.
func outcome(failure string) (observe.Verdict, string) {
	switch {
	case strings.Contains(failure, "rbac_access_denied"):
		return observe.Refused, "no policy allows it"
	case strings.Contains(failure, "tunnel_response:403"):
		return observe.Refused, "no policy of the destination allows it"
	}
	return observe.Failed, failure
}
