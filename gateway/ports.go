package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// transportPort is a port of a transport protocol. TCP and UDP have ports of their own.
type transportPort struct {
	number uint16
	udp    bool
}

func (p transportPort) String() string {
	if p.udp {
		return fmt.Sprintf("UDP port %d", p.number)
	}
	return fmt.Sprintf("port %d", p.number)
}

func (p transportPort) compare(o transportPort) int {
	if c := cmp.Compare(p.number, o.number); c != 0 || p.udp == o.udp {
		return c
	}
	if o.udp {
		return -1
	}
	return 1
}

// portClaim is what a Gateway, or a ListenerSet for it, asks for of the addresses that Gateways share.
type portClaim struct {
	gateway string
	created time.Time
	object  string // model.ObjectRef.String; that of a Gateway is before that of a ListenerSet
	ports   []transportPort
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
	type addressPort struct {
		address netip.Addr
		port    transportPort
	}
	owner := map[addressPort]string{}
	for _, c := range claims {
		as := a.done[c.gateway]
		for _, port := range c.ports {
			for _, addr := range as.addresses {
				at := addressPort{addr, port}
				if owner[at] == "" {
					owner[at] = c.gateway
				} else if owner[at] != c.gateway && !slices.Contains(as.taken, port) {
					as.taken = append(as.taken, port)
				}
			}
		}
		slices.SortFunc(as.taken, transportPort.compare)
	}
}

// portClaims returns the claims of a Gateway and of its ListenerSets. Of these only listeners that would be served count.
func (v *view) portClaims(gw *gwv1.Gateway, as *assignment) []portClaim {
	var out []portClaim
	for _, p := range v.mergeListeners(gw, as) {
		c := portClaim{gateway: as.gateway, created: p.created, object: p.parent.String()}
		for _, l := range p.listeners {
			if l.port.number == 0 || l.table == "" || p.parent.Kind != "Gateway" && !l.accepted.ok() || slices.Contains(c.ports, l.port) {
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
