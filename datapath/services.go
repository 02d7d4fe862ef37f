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
	known     map[string]*serviceState
	byID      map[uint32]*backendSet
	last      uint32
	// earlier counts the frontends that an earlier agent wrote, by the number of their set.
	earlier map[uint32]int
	// left says that a UDP port lost a backend or an address, so sockets may have a backend that serves them no more.
	// Who ends these resets it.
	left bool
}

// serviceState is what was written for a Service.
type serviceState struct {
	ports map[string]*backendSet // by portEntries.Name
	sets  map[*backendSet]bool   // those of ports, and those that frontends may still count
}

func newServices(t tables) (*services, error) {
	f, err := newClaims("frontends", t.frontends, func(k weftFrontendKey) string {
		text := fmt.Sprintf("%s:%d/%s", decodeAddr(k.Addr), encodePort(k.Port), model.Protocol(k.Proto))
		if k.Pad > 0 {
			text += fmt.Sprintf(" for callers %d", k.Pad)
		}
		return text
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
		known: map[string]*serviceState{}, byID: map[uint32]*backendSet{}, earlier: map[uint32]int{},
	}
	for _, v := range f.have {
		s.last = max(s.last, v.Service)
		s.earlier[v.Service]++
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
	state := s.known[service]
	if state == nil {
		state = &serviceState{ports: map[string]*backendSet{}, sets: map[*backendSet]bool{}}
		s.known[service] = state
	}
	names := map[string]bool{}
	for i := range want {
		names[want[i].Name] = true
	}
	errs := []error{s.removeOthers(state, names)}
	removed := errs[0] == nil
	shared := s.assign(state, want)
	for _, sh := range shared {
		errs = append(errs, s.fill(sh))
	}
	written := removed
	for _, sh := range shared {
		conflicts, err := s.point(sh)
		errs = append(errs, conflicts, err)
		written = written && err == nil
	}
	if written { // else a frontend may count what is no longer wanted
		errs = append(errs, s.trimAll(state, shared))
	}
	if len(state.ports)+len(state.sets) == 0 {
		delete(s.known, service)
	}
	return errors.Join(errs...)
}

// removeOthers removes the frontends of the ports that are not in names.
func (s *services) removeOthers(state *serviceState, names map[string]bool) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(state.ports)) {
		if names[name] {
			continue
		}
		if _, err := s.frontends.set(name, nil); err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", name, err))
			continue
		}
		s.left = s.left || state.ports[name].live != nil
		delete(state.ports, name)
	}
	return errors.Join(errs...)
}

// assign puts the ports of a Service into as few sets as they have different backends.
func (s *services) assign(state *serviceState, want []portEntries) []*sharedPorts {
	shared := groupPorts(want)
	users := map[*backendSet]int{}
	for _, set := range state.ports {
		users[set]++
	}
	taken := map[*backendSet]bool{}
	for _, sh := range shared {
		sh.set = retained(state, sh, users, taken)
		if sh.set == nil {
			sh.set = s.adopt(sh)
		}
		taken[sh.set], state.sets[sh.set] = true, true
		for _, pe := range sh.ports {
			if old := state.ports[pe.Name]; old != nil {
				s.left = s.left || lost(old.live, pe.Live)
			}
			state.ports[pe.Name] = sh.set
		}
	}
	return shared
}

// fill writes the backends of a set. What does not fit is left out, and what is written serves.
func (s *services) fill(sh *sharedPorts) error {
	p, pe := sh.set, sh.ports[0]
	var errs []error
	p.live, p.wanted = pe.Live, pe.Backends
	if pe.Sticky {
		for _, b := range pe.Backends {
			p.members[b] = true
			if err := s.members.put(weftMemberKey{Service: p.id, Backend: b}, 1); err != nil {
				errs = append(errs, fmt.Errorf("port %s: backend %s: %w", pe.Name, decode(b), err))
			}
		}
	}
	arranged := arrange(p.slots, pe.Backends)
	count := len(arranged)
	for i, b := range arranged {
		if err := s.slots.put(weftSlotKey{Service: p.id, Slot: uint32(i)}, b); err != nil {
			errs = append(errs, fmt.Errorf("port %s: backend %s: %w", pe.Name, decode(b), err))
			count = i
			break
		}
	}
	p.slots, p.filled = arranged[:count], max(p.filled, count)
	return errors.Join(errs...)
}

// point makes the frontends of ports lead to their set.
func (s *services) point(sh *sharedPorts) (conflicts, err error) {
	var taken, errs []error
	for _, pe := range sh.ports {
		f := weftFrontend{Service: sh.set.id, Count: uint32(len(sh.set.slots)), Affinity: pe.Affinity}
		if pe.L7 {
			f.Flags = frontendL7
			if pe.Detect {
				f.Flags |= frontendDetect
			}
			if pe.SNI {
				f.Flags |= frontendSNI
			}
		}
		if pe.Callers {
			f.Flags |= frontendCallers
		}
		keys := map[weftFrontendKey]weftFrontend{}
		for _, k := range pe.Frontends {
			keys[k] = f
		}
		s.left = s.left || pe.Live != nil && lost(s.frontends.owned[pe.Name], keys)
		c, err := s.frontends.set(pe.Name, keys)
		if c != nil {
			taken = append(taken, fmt.Errorf("port %s: %w", pe.Name, c))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", pe.Name, err))
		}
	}
	return errors.Join(taken...), errors.Join(errs...)
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

// trimAll deletes what no frontend of a Service counts any more.
func (s *services) trimAll(state *serviceState, shared []*sharedPorts) error {
	var errs []error
	used := map[*backendSet]bool{}
	for _, sh := range shared {
		used[sh.set] = true
		members := map[weftEndpoint]bool{}
		if sh.ports[0].Sticky {
			for _, b := range sh.ports[0].Backends {
				members[b] = true
			}
		}
		errs = append(errs, s.trim(sh.set, len(sh.set.slots), members))
	}
	for set := range state.sets {
		if used[set] {
			continue
		}
		if err := s.trim(set, 0, nil); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(state.sets, set)
		delete(s.byID, set.id)
	}
	return errors.Join(errs...)
}

// trim deletes the slots from count on and the members that are not wanted.
func (s *services) trim(p *backendSet, count int, members map[weftEndpoint]bool) error {
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

// prune removes what no Service of the model has.
func (s *services) prune() error {
	counts := map[uint32]uint32{}
	members := map[weftMemberKey]bool{}
	for _, state := range s.known {
		for p := range state.sets {
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
