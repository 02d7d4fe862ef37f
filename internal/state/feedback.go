package state

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// AcceptedAt reports whether Envoy has accepted what was built from a row of the model at a revision or a later one.
// Table.Revision returns the revision.
func (s *State) AcceptedAt(snap *Snapshot, subject model.Subject, revision uint64) bool {
	row, ok := s.Accepted.Get(snap, subject.Key())
	return ok && row.Revision >= revision
}

// EnvoyConnected reports whether an Envoy is connected and asks for listeners.
func (s *State) EnvoyConnected(snap *Snapshot) bool {
	_, ok := s.Accepted.Get(snap, model.Envoy.Key())
	return ok
}

// TunnelConnected reports whether a weft tunnel is connected.
func (s *State) TunnelConnected(snap *Snapshot) bool {
	_, ok := s.Carried.Get(snap, model.Tunnel.Key())
	return ok
}

// CarriedAt reports whether weft tunnel has in force what the row of a workload says at a revision or a later one.
func (s *State) CarriedAt(snap *Snapshot, subject model.Subject, revision uint64) bool {
	row, ok := s.Carried.Get(snap, subject.Key())
	return ok && row.Revision >= revision
}

// ProgrammedAt reports whether the kernel holds what was written from a row of the model at a revision or a later one.
func (s *State) ProgrammedAt(snap *Snapshot, subject model.Subject, revision uint64) bool {
	row, ok := s.Programmed.Get(snap, subject.Key())
	return ok && row.Revision >= revision
}

// ServesGateways reports whether this node serves Gateways.
func (s *State) ServesGateways(snap *Snapshot) bool {
	role, ok := s.Role.Get(snap, (*model.NodeRole)(nil).Key())
	return !ok || role.Gateways
}

// NodeAccepts reports whether a node takes connections by a transport. A node of which nothing is known takes HBONE only.
func (s *State) NodeAccepts(snap *Snapshot, node string, t model.Transport) bool {
	if t == model.TransportHBONE {
		return true
	}
	n, ok := s.Nodes.Get(snap, node)
	return ok && slices.Contains(n.Accepts, t)
}

// NetNSInode returns the number of the network namespace at a path, as placements have it; 0 if none of them names a namespace there.
// placed is false if there is no placement.
func (s *State) NetNSInode(snap *Snapshot, path string) (inode uint64, placed bool) {
	for p := range s.Placements.By(snap, ByNetNS, path) {
		if placed = true; p.Inode != 0 {
			return p.Inode, true
		}
	}
	return 0, placed
}
