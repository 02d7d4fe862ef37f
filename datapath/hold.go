package datapath

import (
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// routeHold is a port that became L7 and waits for Envoy.
type routeHold struct {
	since    time.Time // zero if it does not wait
	accepted bool      // Envoy had its routes at the last look
}

// holdRoutes takes L7 from the ports that are to wait for Envoy, and tells whether there are any: those that the kernel
// balances now. What is new does not wait, for nobody uses it yet, and who does must not miss its routes as long as the
// connection lives.
func (s *services) holdRoutes(svc *model.Service, want []portEntries, now time.Time) bool {
	if s.routes == nil {
		return false
	}
	held := false
	for i := range want {
		pe := &want[i]
		p := s.ports[svc.Key()][pe.Name]
		if !pe.L7 || !s.balances(pe) {
			if p != nil {
				p.hold = routeHold{}
			}
			continue
		}
		if p == nil || s.wait(&p.hold, svc, pe.Port, now) {
			pe.L7, held = false, true
		}
	}
	return held
}

// wait looks twice: what Envoy has accepted, its workers take in a moment later.
func (s *services) wait(h *routeHold, svc *model.Service, port uint16, now time.Time) bool {
	if h.since.IsZero() {
		h.since = now
	}
	before := h.accepted
	h.accepted = s.routes(svc, port)
	return now.Sub(h.since) < HoldRoutes && !(before && h.accepted)
}

// balances tells whether the kernel knows a port and does not hand its connections to Envoy.
func (s *services) balances(pe *portEntries) bool {
	for _, k := range pe.Frontends {
		if f, ok := s.frontends.have[k]; ok && f.Flags&frontendL7 == 0 {
			return true
		}
	}
	return false
}
