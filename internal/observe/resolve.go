package observe

import (
	"net/netip"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Resolver says who has an address, as the tables are at the time of the call.
type Resolver struct{ state *state.State }

// NewResolver makes a resolver over the tables.
func NewResolver(st *state.State) *Resolver { return &Resolver{state: st} }

// Peer names an address: the workload that has it, or the service. An address that several workloads share (pods of
// the host's network) names none of them, because a wrong name is worse than none. The identity is left empty: an
// address proves nothing.
func (r *Resolver) Peer(addr netip.AddrPort) Peer {
	addr = netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
	p := Peer{Address: addr}
	snap := r.state.Snapshot()
	text := addr.Addr().String()
	var found []*model.Workload
	for w := range r.state.Workloads.By(snap, state.ByAddress, text) {
		found = append(found, w)
	}
	if len(found) == 1 {
		p.Workload, p.Labels = found[0].Key(), found[0].Labels
	}
	p.Service = r.service(snap, text, addr.Port())
	return p
}

// Own names the workload of an end that was known without its address: a loopback address is everybody's.
func (r *Resolver) Own(p *Peer, workload string) {
	p.Workload, p.Labels = workload, nil
	if w, ok := r.state.Workloads.Get(r.state.Snapshot(), workload); ok {
		p.Labels = w.Labels
	}
}

// service finds the service with the address, by the port where several share the address.
func (r *Resolver) service(snap *state.Snapshot, addr string, port uint16) string {
	var all, withPort []string
	for s := range r.state.Services.By(snap, state.ByAddress, addr) {
		all = append(all, s.Key())
		for _, p := range s.Ports {
			if p.Port == port {
				withPort = append(withPort, s.Key())
				break
			}
		}
	}
	switch {
	case len(withPort) == 1:
		return withPort[0]
	case len(all) == 1:
		return all[0]
	}
	return ""
}
