package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// services writes frontends, slots and members.
//
// No connection may meet a hole: slots are written before a frontend counts them, and are deleted after it does not
// count them any more.
type services struct {
	frontends *claims[weftFrontendKey, weftFrontend]
	slots     *mirror[weftSlotKey, weftEndpoint]
	members   *mirror[weftMemberKey, uint32]
	ports     map[string]map[string]*portState // Service -> portEntries.Name
	byID      map[uint32]*portState
	last      uint32
	// left says that a UDP port lost a backend or an address, so sockets may have a backend that serves them no more.
	// Who ends these resets it.
	left bool
}

type portState struct {
	id      uint32
	slots   []weftEndpoint
	filled  int                   // slots from here on are empty for certain
	members map[weftEndpoint]bool // that may be in the map
	live    map[weftEndpoint]bool // portEntries.Live
}

func newServices(t tables) (*services, error) {
	f, err := newClaims("frontends", t.frontends, func(k weftFrontendKey) string {
		return fmt.Sprintf("%s:%d/%s", decodeAddr(k.Addr), encodePort(k.Port), model.Protocol(k.Proto))
	})
	if err != nil {
		return nil, err
	}
	slots, err := newMirror("slots", t.slots)
	if err != nil {
		return nil, err
	}
	members, err := newMirror("members", t.members)
	if err != nil {
		return nil, err
	}
	s := &services{
		frontends: f, slots: slots, members: members,
		ports: map[string]map[string]*portState{}, byID: map[uint32]*portState{},
	}
	for _, v := range f.have {
		s.last = max(s.last, v.Service)
	}
	for k := range slots.have {
		s.last = max(s.last, k.Service)
	}
	return s, nil
}

// firstRoutes lists those of the ports that become L7 while the kernel balances them.
func (s *services) firstRoutes(want []portEntries) []int {
	var out []int
	for i := range want {
		if want[i].L7 && s.balances(&want[i]) {
			out = append(out, i)
		}
	}
	return out
}

// balances reports whether the kernel knows a port and does not hand its connections to Envoy.
func (s *services) balances(pe *portEntries) bool {
	for _, k := range pe.Frontends {
		if f, ok := s.frontends.have[k]; ok && f.Flags&frontendL7 == 0 {
			return true
		}
	}
	return false
}

// apply makes a Service's entries; none removes it.
func (s *services) apply(service string, want []portEntries) error {
	var errs []error
	ports := s.ports[service]
	if ports == nil {
		ports = map[string]*portState{}
		s.ports[service] = ports
	}
	names := map[string]bool{}
	for _, pe := range want {
		if names[pe.Name] {
			continue
		}
		names[pe.Name] = true
		if err := s.applyPort(ports, pe); err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", pe.Name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if names[name] {
			continue
		}
		if err := s.removePort(name, ports[name]); err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", name, err))
			continue
		}
		delete(ports, name)
	}
	if len(ports) == 0 {
		delete(s.ports, service)
	}
	return errors.Join(errs...)
}

func (s *services) applyPort(ports map[string]*portState, pe portEntries) error {
	p := ports[pe.Name]
	if p == nil {
		p = s.adopt(pe)
		ports[pe.Name] = p
	}
	var errs []error
	s.left = s.left || lost(p.live, pe.Live)
	p.live = pe.Live
	members := map[weftEndpoint]bool{}
	if pe.Sticky {
		for _, b := range pe.Backends {
			members[b] = true
			if err := s.members.put(weftMemberKey{Service: p.id, Backend: b}, 1); err != nil {
				errs = append(errs, fmt.Errorf("backend %s: %w", decode(b), err))
			}
		}
	}
	arranged := arrange(p.slots, pe.Backends)
	count := len(arranged)
	for i, b := range arranged {
		if err := s.slots.put(weftSlotKey{Service: p.id, Slot: uint32(i)}, b); err != nil {
			errs = append(errs, fmt.Errorf("backend %s: %w", decode(b), err))
			count = i // what is written serves
			break
		}
	}
	f := weftFrontend{Service: p.id, Count: uint32(count), Affinity: pe.Affinity}
	if pe.L7 {
		f.Flags = frontendL7
	}
	keys := map[weftFrontendKey]weftFrontend{}
	for _, k := range pe.Frontends {
		keys[k] = f
	}
	s.left = s.left || pe.Live != nil && lost(s.frontends.owned[pe.Name], keys)
	p.slots, p.filled = arranged[:count], max(p.filled, count)
	for b := range members {
		p.members[b] = true
	}
	conflicts, err := s.frontends.set(pe.Name, keys)
	if err != nil {
		// Old frontends may still count the old slots: these stay.
		return errors.Join(append(errs, conflicts, err)...)
	}
	return errors.Join(append(errs, conflicts, s.trim(p, count, members))...)
}

// adopt finds the number that an earlier agent gave the port, or gives a new one.
func (s *services) adopt(pe portEntries) *portState {
	for _, k := range pe.Frontends {
		f, ok := s.frontends.have[k]
		if !ok || s.byID[f.Service] != nil {
			continue
		}
		p := &portState{id: f.Service, members: map[weftEndpoint]bool{}}
		for i := range f.Count {
			b, ok := s.slots.have[weftSlotKey{Service: f.Service, Slot: i}]
			if !ok {
				break
			}
			p.slots = append(p.slots, b)
		}
		p.filled = len(p.slots)
		for m := range s.members.have {
			if m.Service == f.Service {
				p.members[m.Backend] = true
			}
		}
		s.byID[p.id] = p
		return p
	}
	s.last++
	for s.byID[s.last] != nil || s.last == 0 {
		s.last++
	}
	p := &portState{id: s.last, members: map[weftEndpoint]bool{}}
	s.byID[p.id] = p
	return p
}

// lost reports whether a key of before is not in now.
func lost[K comparable, V any](before, now map[K]V) bool {
	for k := range before {
		if _, ok := now[k]; !ok {
			return true
		}
	}
	return false
}

// serves reports whether a backend still serves sockets that sent datagrams to a Service's address and got it.
func (s *services) serves(service, backend netip.AddrPort) bool {
	f, ok := s.frontends.have[encodeFrontend(service, model.UDP)]
	if !ok {
		return false
	}
	p := s.byID[f.Service]
	return p != nil && p.live[encode(backend)]
}

// trim deletes the slots from count on and the members that are not wanted.
func (s *services) trim(p *portState, count int, members map[weftEndpoint]bool) error {
	var errs []error
	for p.filled > count {
		if err := s.slots.delete(weftSlotKey{Service: p.id, Slot: uint32(p.filled - 1)}); err != nil {
			errs = append(errs, err)
			break
		}
		p.filled--
	}
	for b := range p.members {
		if members[b] {
			continue
		}
		if err := s.members.delete(weftMemberKey{Service: p.id, Backend: b}); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(p.members, b)
	}
	return errors.Join(errs...)
}

func (s *services) removePort(name string, p *portState) error {
	if _, err := s.frontends.set(name, nil); err != nil {
		return err
	}
	if err := s.trim(p, 0, nil); err != nil {
		return err
	}
	delete(s.byID, p.id)
	s.left = s.left || p.live != nil
	return nil
}

// prune removes what no Service of the model has.
func (s *services) prune() error {
	counts := map[uint32]uint32{}
	members := map[weftMemberKey]bool{}
	for _, ports := range s.ports {
		for _, p := range ports {
			counts[p.id] = uint32(p.filled)
			for b := range p.members {
				members[weftMemberKey{Service: p.id, Backend: b}] = true
			}
		}
	}
	return errors.Join(
		s.frontends.prune(s.frontends.wanted),
		s.slots.prune(func(k weftSlotKey, _ weftEndpoint) bool { return k.Slot < counts[k.Service] }),
		s.members.prune(func(k weftMemberKey, _ uint32) bool { return members[k] }),
	)
}
