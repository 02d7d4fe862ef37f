package xds

import (
	"net/netip"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// A scope leads from an original destination to a route table. All of them go to Envoy by wildcard, the tables only
// when a connection needs them. The name of a scope is its key; the unit of the wildcard is a service address, or
// scopeWaiting.
var scopeKind = &kind{
	build: buildScope,
	units: func(b *builder) []string {
		units := []string{scopeWaiting}
		for s := range b.st.Services.All(b.snap) {
			for _, a := range s.Addresses {
				units = append(units, a.String())
			}
		}
		return units
	},
	names: scopeNames,
	unitOf: func(st *state.State, k state.Key) (string, bool) {
		return k.Value, k.Table == st.Services.ID() && k.Index == state.ByAddress
	},
	retained: scopeRetained,
	mode:     callers,
	modeOf: func(st *state.State) []state.Key {
		return []state.Key{{Table: st.Workloads.ID(), Index: state.ByLocal, Value: "true"}}
	},
}

// Modes of the wildcard: which callers this node has, and so which variants of scopes it needs.
const (
	withIdentity = "i"
	without      = "p"
)

func callers(b *builder) string {
	with, plain := "", ""
	for w := range b.st.Workloads.By(b.snap, state.ByLocal, "true") {
		if w.Identity != "" {
			with = withIdentity
		} else {
			plain = without
		}
	}
	return with + plain
}

// scopeNames returns the keys of all L7 ports at an address, for the callers that this node has.
func scopeNames(b *builder, unit string) []string {
	if unit == scopeWaiting {
		return []string{scopeWaiting}
	}
	addr, err := netip.ParseAddr(unit)
	if err != nil {
		return nil
	}
	var names []string
	seen := map[uint16]bool{}
	for s := range b.st.Services.By(b.snap, state.ByAddress, unit) {
		for _, p := range s.Ports {
			if p.Protocol != model.TCP || !p.L7 || seen[p.Port] {
				continue
			}
			seen[p.Port] = true
			at := netip.AddrPortFrom(addr, p.Port)
			if strings.Contains(b.mode, withIdentity) {
				names = append(names, scopeKey(at, false))
			}
			if strings.Contains(b.mode, without) {
				names = append(names, scopeKey(at, true))
			}
		}
	}
	return names
}

// scopeRetained keeps the scope of a port that is no longer L7: connections that Envoy has live on, and their requests
// go to the Service as it is.
func scopeRetained(b *builder, name string) bool {
	at, plain, ok := parseScopeKey(name)
	if !ok || plain && !strings.Contains(b.mode, without) || !plain && !strings.Contains(b.mode, withIdentity) {
		return false
	}
	return servicePort(b, at) != nil
}

// servicePort returns the Service that has a TCP port at an address; nil if none does.
func servicePort(b *builder, at netip.AddrPort) *model.Service {
	for s := range b.st.Services.By(b.snap, state.ByAddress, at.Addr().String()) {
		if p, ok := s.Port(at.Port()); ok && p.Protocol == model.TCP {
			return s
		}
	}
	return nil
}

func buildScope(b *builder, name string) *built {
	if name == scopeWaiting {
		return &built{message: waitingScope(b.cfg)}
	}
	at, plain, ok := parseScopeKey(name)
	if !ok {
		return nil
	}
	if s := servicePort(b, at); s != nil {
		table := serviceName{namespace: s.Namespace, name: s.Name, port: at.Port(), plain: plain}
		return &built{
			message: &routev3.ScopedRouteConfiguration{
				Name:                   name,
				OnDemand:               true,
				RouteConfigurationName: table.String(),
				Key:                    scopeKeyOf(name),
			},
			objects: []model.ObjectVersion{serviceRef(s.Namespace, s.Name)},
		}
	}
	return nil
}

func scopeKeyOf(key string) *routev3.ScopedRouteConfiguration_Key {
	return &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
		Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: key},
	}}}
}
