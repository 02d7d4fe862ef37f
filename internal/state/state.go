package state

import (
	"sync"

	"github.com/weft-mesh/weft/internal/model"
)

// State is the model of the mesh as a node sees it.
type State struct {
	*DB
	// Written by gateway.
	Workloads    *Table[*model.Workload]
	Services     *Table[*model.Service]
	Endpoints    *Table[*model.Endpoints]
	RouteTables  *Table[*model.RouteTable]
	StreamRoutes *Table[*model.StreamRoute]
	Divisions    *Table[*model.Division]
	BackendTLS   *Table[*model.BackendTLS]
	Gateways     *Table[*model.Gateway]
	Certificates *Table[*model.Certificate]
	Statuses     *Table[*model.Status]
	// Written by mtls: an SVID for each identity of this node's workloads and gateways; the trust bundles.
	SVIDs   *Table[*model.SVID]
	Bundles *Table[*model.Bundle]
	// Written by xds: what Envoy refused, and what it accepted. In the controller Rejections are of the Envoys of all nodes,
	// and written by it from what the nodes report.
	Rejections *Table[*model.Rejection]
	Accepted   *Table[*model.Accepted]
	// Written by tunnel: what weft tunnel carries.
	Carried *Table[*model.Carried]
	// Written by datapath: what the kernel holds, and how full its maps are.
	Programmed *Table[*model.Programmed]
	MapUsage   *Table[*model.MapUsage]
	// Written by mtls: the certificates of this node's identities.
	Certified *Table[*model.Certified]
	// Written by placement: from the CNI plugin's requests and a search of cgroups, or from a folder's manifests.
	Placements *Table[*model.Placement]
	// Written by placement, in a cluster: the cgroups that the kubelet puts pods into.
	PodCgroups *Table[*model.PodCgroup]
	// Written by whatever drops events; each source has a row of its own.
	Lost *Table[*model.Lost]
	// Written by flowexport: how each export of flows goes.
	Exports *Table[*model.Export]
	// Written by cni, the installer of the plugin: how the plugin stands. One row, or none.
	CNI *Table[*model.CNI]
	// Written by the agent, from what weft proxy says: the node's Envoy. One row.
	Proxies *Table[*model.Proxy]
	// Written by announce: which node answers for which address. An address without an entry stays where it is.
	Announcements *Table[*model.Announcement]
	// Written by hostaddr: the addresses of the host's links.
	HostAddresses *Table[*model.HostAddress]
	// Written by announce, or by the agent of a folder: what nodes say of themselves.
	Nodes *Table[*model.Node]
	// Written by gateway from Node objects, and by announce from Leases: where nodes' own connections come from.
	NodeAddresses *Table[*model.NodeAddresses]
	// Written by the receiver of Gateways' Secrets: what the controller lets this node do. Without a row it serves Gateways.
	Role *Table[*model.NodeRole]

	synced chan struct{}
	once   sync.Once
}

// Names of indexes.
const (
	ByAddress = "address" // Workloads, Services, Placements: netip.Addr as text
	ByLocal   = "local"   // Workloads: "true" for those of this node
	ByNetNS   = "netns"   // Placements: path of the network namespace
	ByDetect  = "detect"  // Services: "true" for those with a port whose protocol is found out
	BySNI     = "sni"     // Services: "true" for those with a port that TLSRoutes have; Divisions: "true" for those of TLSRoutes
	ByService = "service" // Divisions: namespace/name of the Service
	ByCallers = "callers" // Divisions: "true" for those for the callers of a namespace
	ByObject  = "object"  // Rejections: model.ObjectRef as text, of each object that the refused resource comes from
)

// where is an index of the rows for which something holds, with the one value "true".
func where[T any](name string, holds func(T) bool) Index[T] {
	return Index[T]{name, func(row T) []string {
		if holds(row) {
			return []string{"true"}
		}
		return nil
	}}
}

// New makes the tables in a database.
func New(db *DB) *State {
	return &State{
		DB: db,
		Workloads: NewTable(db, "workloads", (*model.Workload).Key,
			Index[*model.Workload]{ByAddress, func(w *model.Workload) []string { return texts(w.Addresses) }},
			where(ByLocal, func(w *model.Workload) bool { return w.Local })),
		Services: NewTable(db, "services", (*model.Service).Key,
			Index[*model.Service]{ByAddress, func(s *model.Service) []string { return texts(s.Addresses) }},
			where(ByDetect, (*model.Service).Detects),
			where(BySNI, (*model.Service).ReadsNames)),
		Endpoints:    NewTable(db, "endpoints", (*model.Endpoints).Key),
		RouteTables:  NewTable(db, "route-tables", func(r *model.RouteTable) string { return r.Name }),
		StreamRoutes: NewTable(db, "stream-routes", (*model.StreamRoute).Key),
		Divisions: NewTable(db, "divisions", (*model.Division).Key,
			where(ByCallers, func(d *model.Division) bool { return d.CallerNamespace != "" }),
			where(BySNI, (*model.Division).ByName),
			Index[*model.Division]{ByService, func(d *model.Division) []string { return []string{d.Service} }}),
		BackendTLS:   NewTable(db, "backend-tls", (*model.BackendTLS).Key),
		Gateways:     NewTable(db, "gateways", (*model.Gateway).Key),
		Certificates: NewTable(db, "certificates", (*model.Certificate).Key),
		Statuses:     NewTable(db, "statuses", (*model.Status).Key),
		SVIDs:        NewTable(db, "svids", func(s *model.SVID) string { return string(s.Identity) }),
		Bundles:      NewTable(db, "bundles", func(b *model.Bundle) string { return b.TrustDomain }),
		Rejections: NewTable(db, "rejections", (*model.Rejection).Key,
			Index[*model.Rejection]{ByObject, func(r *model.Rejection) []string { return texts(r.Objects) }}),
		Accepted:   NewTable(db, "accepted", func(a *model.Accepted) string { return a.Key() }),
		Carried:    NewTable(db, "carried", func(c *model.Carried) string { return c.Key() }),
		Programmed: NewTable(db, "programmed", func(p *model.Programmed) string { return p.Key() }),
		MapUsage:   NewTable(db, "map-usage", (*model.MapUsage).Key),
		Certified:  NewTable(db, "certified", (*model.Certified).Key),
		Placements: NewTable(db, "placements", (*model.Placement).Key,
			Index[*model.Placement]{ByAddress, func(p *model.Placement) []string { return texts(p.Addresses) }},
			Index[*model.Placement]{ByNetNS, func(p *model.Placement) []string { return []string{p.NetNS} }}),
		PodCgroups:    NewTable(db, "pod-cgroups", (*model.PodCgroup).Key),
		Lost:          NewTable(db, "lost", (*model.Lost).Key),
		Exports:       NewTable(db, "exports", (*model.Export).Key),
		CNI:           NewTable(db, "cni", (*model.CNI).Key),
		Proxies:       NewTable(db, "proxies", (*model.Proxy).Key),
		Announcements: NewTable(db, "announcements", (*model.Announcement).Key),
		HostAddresses: NewTable(db, "host-addresses", (*model.HostAddress).Key),
		Nodes:         NewTable(db, "node-transports", (*model.Node).Key),
		NodeAddresses: NewTable(db, "node-addresses", (*model.NodeAddresses).Key),
		Role:          NewTable(db, "node-role", (*model.NodeRole).Key),
		synced:        make(chan struct{}),
	}
}

// Synced is closed when the tables hold all that was there at the start. Before, nothing may be withdrawn from the
// kernel or from Envoy because it is missing here.
func (s *State) Synced() <-chan struct{} { return s.synced }

// MarkSynced closes Synced. It may be called more than once.
func (s *State) MarkSynced() { s.once.Do(func() { close(s.synced) }) }

func texts[S interface{ String() string }](in []S) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = s.String()
	}
	return out
}
