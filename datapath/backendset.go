package datapath

import (
	"hash/maphash"
	"maps"
	"slices"
)

// backendSet holds the slots and members of those ports of a Service that have the same backends. Ports share it, so that a
// Service takes as many slots as it has different backends, and not that number for each of its ports.
type backendSet struct {
	id      uint32 // weftFrontend.Service
	wanted  []weftEndpoint
	slots   []weftEndpoint        // those that serve
	filled  int                   // slots from here on are empty for certain
	members map[weftEndpoint]bool // that may be in the map
	live    map[weftEndpoint]bool // portEntries.Live
}

// sharedPorts are ports of a Service with the same backends, and the set that they share.
type sharedPorts struct {
	ports []*portEntries // at least one
	set   *backendSet
}

var hashSeed = maphash.MakeSeed()

// groupPorts puts the ports with the same backends together, in the order of the first of each. A name that is there twice
// counts once.
func groupPorts(want []portEntries) []*sharedPorts {
	var out []*sharedPorts
	byHash := map[uint64][]*sharedPorts{}
	names := map[string]bool{}
next:
	for i := range want {
		pe := &want[i]
		if names[pe.Name] {
			continue
		}
		names[pe.Name] = true
		h := hashBackends(pe.Backends)
		for _, sh := range byHash[h] {
			if sameBackends(sh.ports[0], pe) {
				sh.ports = append(sh.ports, pe)
				continue next
			}
		}
		sh := &sharedPorts{ports: []*portEntries{pe}}
		byHash[h] = append(byHash[h], sh)
		out = append(out, sh)
	}
	return out
}

func hashBackends(backends []weftEndpoint) uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	for _, b := range backends {
		maphash.WriteComparable(&h, b)
	}
	return h.Sum64()
}

// sameBackends reports whether ports can share a set. A UDP port has Live, and so shares with no TCP port.
func sameBackends(a, b *portEntries) bool {
	return a.Sticky == b.Sticky && (a.Live == nil) == (b.Live == nil) && slices.Equal(a.Backends, b.Backends) && maps.Equal(a.Live, b.Live)
}

// retained returns a set that the ports have already, nil if there is none that they may keep. A set changes its backends
// for all ports that lead to it, so it is kept only if all of these stay together, or if its backends stay. users counts the
// ports of each set, and taken holds the sets that other ports keep.
func retained(state *serviceState, sh *sharedPorts, users map[*backendSet]int, taken map[*backendSet]bool) *backendSet {
	here := map[*backendSet]int{}
	for _, pe := range sh.ports {
		if set := state.ports[pe.Name]; set != nil {
			here[set]++
		}
	}
	for _, pe := range sh.ports {
		set := state.ports[pe.Name]
		if set == nil || taken[set] {
			continue
		}
		same := slices.Equal(set.wanted, sh.ports[0].Backends) && (set.live == nil) == (pe.Live == nil)
		if same || here[set] == users[set] {
			return set
		}
	}
	return nil
}

// adopt finds the number that an earlier agent gave the ports, or gives a new one.
func (s *services) adopt(sh *sharedPorts) *backendSet {
	here := map[uint32]int{}
	for _, pe := range sh.ports {
		for _, k := range pe.Frontends {
			f, ok := s.frontends.have[k]
			if !ok || s.byID[f.Service] != nil {
				continue
			}
			// Frontends of other ports must not lead to what becomes of it.
			if here[f.Service]++; here[f.Service] == s.earlier[f.Service] {
				return s.restored(f)
			}
		}
	}
	s.last++
	for s.byID[s.last] != nil || s.earlier[s.last] > 0 || s.last == 0 {
		s.last++
	}
	p := &backendSet{id: s.last, members: map[weftEndpoint]bool{}}
	s.byID[p.id] = p
	return p
}

// restored reads a set that an earlier agent wrote.
func (s *services) restored(f weftFrontend) *backendSet {
	p := &backendSet{id: f.Service, members: map[weftEndpoint]bool{}}
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
