package gateway

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// portClaim is what a Gateway, or a ListenerSet for it, asks for of the addresses that Gateways share.
type portClaim struct {
	gateway string
	created time.Time
	object  string // model.ObjectRef.String; that of a Gateway is before that of a ListenerSet
	ports   []uint16
}

// claimPorts lets the oldest object have a port of an address that several Gateways have: a new ListenerSet takes nothing from
// another Gateway that is there, nor a new Gateway from the ListenerSets of another one.
func (a *assigner) claimPorts(gateways []*gwv1.Gateway) {
	users := map[netip.Addr]int{}
	for _, gw := range gateways {
		for _, addr := range a.done[kube.Key(gw)].addresses {
			users[addr]++
		}
	}
	var claims []portClaim
	for _, gw := range gateways {
		as := a.done[kube.Key(gw)]
		if slices.ContainsFunc(as.addresses, func(x netip.Addr) bool { return users[x] > 1 }) {
			claims = append(claims, a.v.portClaims(gw, as)...)
		}
	}
	slices.SortStableFunc(claims, func(x, y portClaim) int {
		return cmp.Or(x.created.Compare(y.created), strings.Compare(x.object, y.object))
	})
	owner := map[netip.AddrPort]string{}
	for _, c := range claims {
		as := a.done[c.gateway]
		for _, port := range c.ports {
			for _, addr := range as.addresses {
				at := netip.AddrPortFrom(addr, port)
				if owner[at] == "" {
					owner[at] = c.gateway
				} else if owner[at] != c.gateway && !slices.Contains(as.taken, port) {
					as.taken = append(as.taken, port)
				}
			}
		}
		slices.Sort(as.taken)
	}
}

// portClaims returns the claims of a Gateway and of its ListenerSets. Of these only listeners that would be served count.
func (v *view) portClaims(gw *gwv1.Gateway, as *assignment) []portClaim {
	var out []portClaim
	for _, p := range v.mergeListeners(gw, as) {
		c := portClaim{gateway: as.gateway, created: p.created, object: p.parent.String()}
		for _, l := range p.listeners {
			if l.port == 0 || l.table == "" || p.parent.Kind != "Gateway" && !l.accepted.ok() || slices.Contains(c.ports, l.port) {
				continue
			}
			c.ports = append(c.ports, l.port)
		}
		if len(c.ports) > 0 {
			out = append(out, c)
		}
	}
	return out
}
