package agent

import (
	"encoding/json"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// covers reports whether now allows a peer all that before did: on one port, or on all of them if port is 0. A nil policy
// allows everything. It may say no where a yes would be right.
func covers(now, before *model.Policy, peer model.Identity, port uint16) bool {
	if now == nil {
		return true
	}
	grants := grantsTo(now, peer, port)
	for _, b := range grantsTo(before, peer, port) {
		if !slices.ContainsFunc(grants, func(g grant) bool { return g.covers(b) }) {
			return false
		}
	}
	return true
}

// grant is a rule's share that concerns one peer: a port (0 is all) and the requests on it (none is all bytes).
type grant struct {
	port uint16
	http []model.HTTPRule
}

func (g grant) covers(o grant) bool {
	return (g.port == 0 || g.port == o.port) && (len(g.http) == 0 || sameRequests(g.http, o.http))
}

func sameRequests(a, b []model.HTTPRule) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func grantsTo(p *model.Policy, peer model.Identity, port uint16) []grant {
	if p == nil {
		return []grant{{port: port}}
	}
	var out []grant
	for _, r := range p.Rules {
		if !r.CoversPeer(peer) {
			continue
		}
		switch {
		case len(r.Ports) == 0:
			out = append(out, grant{port: port, http: r.HTTP})
		case port == 0:
			for _, n := range r.Ports {
				out = append(out, grant{port: n, http: r.HTTP})
			}
		case slices.Contains(r.Ports, port):
			out = append(out, grant{port: port, http: r.HTTP})
		}
	}
	return out
}
