package gateway

import (
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// view is all that a unit computes from.
type view struct {
	*state.Snapshot // what is read from it makes the unit run again when it changes
	*tables
	cfg *Config
	// last is the same snapshot, and reading it makes nothing run again. By it a unit that must not change its mind finds
	// what it made before: a Gateway's address, a certificate that was valid, the pods that a policy selected.
	last     *state.Snapshot
	retained Retained // what was made before this translator; empty after its first pass
	memo     *memo
}

// tables are those that units read and write.
type tables struct {
	objs *kube.Objects
	st   *state.State

	// What units of one stage make for the later ones.
	attachments *state.Table[*attachment]
	assignments *state.Table[*assignment]
	merged      *state.Table[*parentListeners]
	conflicts   *state.Table[*conflict]
	selections  *state.Table[*Selection]
	demands     *state.Table[*demand]
	allotments  *state.Table[*allotment]
	tlsChoices  *state.Table[*tlsChoice]
	telemetry   *state.Table[*telemetryChoice]
	streamPorts *state.Table[*streamPorts]

	routeDemands  *state.Table[*routeDemand]
	routeRefusals *state.Table[*routeRefusal]
	// fallbackRefusals are made with routeRefusals.
	fallbackRefusals *state.Table[*fallbackRefusal]

	listenerDemands  *state.Table[*listenerDemand]
	listenerRefusals *state.Table[*listenerRefusal]

	probeDemands  *state.Table[*probeDemand]
	probeRefusals *state.Table[*probeRefusal]
}

func newTables(objs *kube.Objects, st *state.State) *tables {
	return &tables{
		objs: objs, st: st, attachments: newAttachments(st.DB), assignments: newAssignments(st.DB), merged: newMerged(st.DB), conflicts: newConflicts(st.DB),
		selections: newSelections(st.DB), demands: newDemands(st.DB), allotments: newAllotments(st.DB), tlsChoices: newTLSChoices(st.DB), telemetry: newTelemetryChoices(st.DB), streamPorts: newStreamPorts(st.DB),
		routeDemands: newRouteDemands(st.DB), routeRefusals: newRouteRefusals(st.DB), fallbackRefusals: newFallbackRefusals(st.DB),
		listenerDemands: newListenerDemands(st.DB), listenerRefusals: newListenerRefusals(st.DB),
		probeDemands: newProbeDemands(st.DB), probeRefusals: newProbeRefusals(st.DB),
	}
}

// written lists the tables that only units write.
func (t *tables) written() []state.AnyTable {
	return []state.AnyTable{
		t.attachments, t.assignments, t.merged, t.conflicts, t.selections, t.demands, t.allotments, t.tlsChoices, t.telemetry, t.streamPorts, t.routeDemands, t.routeRefusals, t.fallbackRefusals,
		t.listenerDemands, t.listenerRefusals, t.probeDemands, t.probeRefusals,
		t.st.Workloads, t.st.Services, t.st.Endpoints, t.st.RouteTables, t.st.StreamRoutes, t.st.Divisions, t.st.BackendTLS, t.st.Gateways, t.st.Certificates, t.st.NodeAddresses, t.st.Statuses,
	}
}

// output is one row that a unit wants in a table.
type output struct {
	table  state.TableID
	key    string
	value  any
	put    func(*state.Write)
	remove func(*state.Write)
}

func out[T any](t *state.Table[T], key string, v T) output {
	return output{
		table: t.ID(), key: key, value: v,
		put:    func(w *state.Write) { t.Put(w, v) },
		remove: func(w *state.Write) { t.Delete(w, key) },
	}
}

func (v *view) status(s *model.Status) output { return out(v.st.Statuses, s.Key(), s) }
