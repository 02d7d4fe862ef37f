package datapath

import (
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// everything finds all objects that the tables or the kernel hold.
func (r *reconciler) everything(snap *state.Snapshot) map[object]struct{} {
	out := map[object]struct{}{hostOwn: {}, otherNodes: {}, cgroups: {}}
	for s := range r.st.Services.All(snap) {
		out[object{model.SubjectService, s.Key()}] = struct{}{}
	}
	for w := range r.st.Workloads.All(snap) {
		out[object{model.SubjectWorkload, w.Key()}] = struct{}{}
	}
	for key := range r.services.known { // those that went while nobody looked
		out[object{model.SubjectService, key}] = struct{}{}
	}
	for key := range r.workloads.local {
		out[object{model.SubjectWorkload, key}] = struct{}{}
	}
	for owner := range r.workloads.peers.owned {
		if service, ok := strings.CutPrefix(owner, ownerService); ok {
			out[object{model.SubjectService, service}] = struct{}{}
			continue
		}
		out[object{model.SubjectWorkload, owner}] = struct{}{}
	}
	return out
}

// dirty finds the objects that changed keys belong to, and those that waited for what changed.
func (r *reconciler) dirty(keys map[state.Key]struct{}, snap *state.Snapshot) map[object]struct{} {
	out := map[object]struct{}{}
	for k := range keys {
		if k.Index != "" {
			continue
		}
		switch k.Table {
		case r.st.Services.ID():
			out[object{model.SubjectService, k.Value}] = struct{}{}
		case r.st.Endpoints.ID(), r.st.Divisions.ID():
			if p := strings.SplitN(k.Value, "/", 3); len(p) == 3 {
				out[object{model.SubjectService, model.Key(p[0], p[1])}] = struct{}{}
			}
		case r.st.Workloads.ID():
			out[object{model.SubjectWorkload, k.Value}] = struct{}{}
		case r.st.Placements.ID(): // another namespace may be at the path
			out[cgroups] = struct{}{}
			if p := strings.SplitN(k.Value, "/", 3); len(p) == 3 {
				out[object{model.SubjectWorkload, model.Key(p[0], p[1])}] = struct{}{}
			}
		case r.st.PodCgroups.ID():
			out[cgroups] = struct{}{}
		case r.st.HostAddresses.ID():
			out[hostOwn] = struct{}{}
		case r.st.NodeAddresses.ID():
			out[otherNodes] = struct{}{}
		case r.st.Nodes.ID(): // it may accept more, or less
			r.addWorkloadsOf(out, k.Value, snap)
		case r.st.Accepted.ID(), r.st.Carried.ID():
			kind, name, _ := strings.Cut(k.Value, "/")
			if o := (object{model.SubjectKind(kind), name}); r.schedule.waiting[o] != nil {
				out[o] = struct{}{}
			}
		}
	}
	return out
}

// addWorkloadsOf adds the workloads of another node, where it matters what that node accepts.
func (r *reconciler) addWorkloadsOf(out map[object]struct{}, node string, snap *state.Snapshot) {
	if !r.tunnel {
		return
	}
	for w := range r.st.Workloads.All(snap) {
		if w.Node == node && !w.Local {
			out[object{model.SubjectWorkload, w.Key()}] = struct{}{}
		}
	}
}
