package observe

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// AtBoth is where a flow was seen that Joined made.
const AtBoth Side = "both ends"

// beganWithin is how far apart two ends may say that a connection began: their nodes' clocks differ, and an end that is busy
// accepts late. A port is not used again for the same destination that soon.
const beganWithin = 5 * time.Second

// PairKey is what both ends know of a connection, an exchange of datagrams or a question.
type PairKey struct {
	protocol            model.Protocol
	layer               Layer
	open                bool
	source, destination netip.AddrPort
	name, kind          string // of a question
	stream              string // of a connection by HBONE
}

// Key returns what the report of the other end has in common with this one. It reports false if there is no such report: an end
// is not known or has no agent, or a request shares its connection with others.
func (f *Flow) Key() (PairKey, bool) {
	source, destination := f.Source.Address, f.Destination.Address
	if f.HTTP != nil || f.SeenAt != AtSource && f.SeenAt != AtDestination || f.Source.Workload == "" || f.Destination.Workload == "" {
		return PairKey{}, false
	}
	if f.Stream != "" {
		// The source's port is the application's at one end, and at the other that of a connection which several share.
		source = netip.AddrPortFrom(source.Addr(), 0)
	}
	if source.Port() == 0 && f.Stream == "" || destination.Port() == 0 || source.Addr().IsLoopback() || destination.Addr().IsLoopback() {
		return PairKey{}, false
	}
	k := PairKey{protocol: f.Protocol, layer: f.Layer, open: f.Open, source: source, destination: destination, stream: f.Stream}
	if f.DNS != nil {
		k.name, k.kind = f.DNS.Name, f.DNS.Type
	}
	return k, true
}

// PairOf reports whether g, which has the same key, is what the other end says of f.
func (f *Flow) PairOf(g *Flow) bool {
	apart := f.began().Sub(g.began()).Abs()
	return f.SeenAt != g.SeenAt && apart <= beganWithin
}

func (f *Flow) began() time.Time {
	if f.Open {
		return f.Time
	}
	return f.Time.Add(-f.Duration)
}

// Joined returns one flow of what both ends say. The source knows the Service that was asked for and measures the time that the
// client waits; the destination knows the policies that refused. Retransmits are those of both directions.
func Joined(f, g *Flow) *Flow {
	source, destination := f, g
	if f.SeenAt == AtDestination {
		source, destination = g, f
	}
	out := *source
	out.SeenAt = AtBoth
	if out.Source.Address.Port() == 0 {
		out.Source.Address = destination.Source.Address
	}
	out.Source.fill(destination.Source)
	out.Destination.fill(destination.Destination)
	out.Route, out.AllowedBy = cmp.Or(source.Route, destination.Route), destination.AllowedBy
	out.Sent, out.Received = max(source.Sent, destination.Sent), max(source.Received, destination.Received)
	out.Retransmits += destination.Retransmits
	out.More = max(source.More, destination.More)
	if destination.Verdict == Refused || out.Verdict == Forwarded {
		out.Verdict, out.Reason, out.Policies = destination.Verdict, destination.Reason, destination.Policies
	}
	return &out
}

// JoinEnds returns flows with what both ends report of a connection as one, where the first of the two is.
func JoinEnds(flows []Flow) []Flow {
	out := make([]Flow, 0, len(flows))
	alone := map[PairKey][]int{} // places in out of those whose other end is still to come
	for i := range flows {
		f := &flows[i]
		key, paired := f.Key()
		if at := slices.IndexFunc(alone[key], func(j int) bool { return out[j].PairOf(f) }); paired && at >= 0 {
			j := alone[key][at]
			out[j], alone[key] = *Joined(&out[j], f), slices.Delete(alone[key], at, at+1)
			continue
		}
		if paired {
			alone[key] = append(alone[key], len(out))
		}
		out = append(out, *f)
	}
	return out
}

// fill takes what is not known from what the other end says.
func (p *Peer) fill(other Peer) {
	p.Service, p.Identity = cmp.Or(p.Service, other.Service), cmp.Or(p.Identity, other.Identity)
	if p.Labels == nil {
		p.Labels = other.Labels
	}
}
