package gateway

import (
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var conflictUnits = unitKind{
	name: "route conflicts of a Gateway", stage: stageConflicts,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.Gateway] { return o.Gateways }),
	compute: func(v *view, key string) ([]output, bool) {
		_, ok := v.objs.Gateways.Get(v.Snapshot, key)
		return v.findConflicts("Gateway", key), ok
	},
}

var setConflictUnits = unitKind{
	name: "route conflicts of a ListenerSet", stage: stageConflicts,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.ListenerSet] { return o.ListenerSets }),
	compute: func(v *view, key string) ([]output, bool) {
		_, ok := v.objs.ListenerSets.Get(v.Snapshot, key)
		return v.findConflicts("ListenerSet", key), ok
	},
}

// conflict holds the routes of a Gateway, or of a ListenerSet, that conflict with an older one: an HTTPRoute and a GRPCRoute with a hostname in
// common cannot share a listener. It is computed once for all routes of a parent, because whether a route is refused
// depends on all that are older.
type conflict struct {
	parent  string              // model.ObjectRef.String
	refused map[string][]string // by listener: the routes (model.ObjectRef.String), sorted
}

func newConflicts(db *state.DB) *state.Table[*conflict] {
	return state.NewTable(db, "gateway-route-conflicts", func(c *conflict) string { return c.parent })
}

// findConflicts judges the routes of a parent. One without conflicts has no row.
func (v *view) findConflicts(kind, key string) []output {
	parent := model.ObjectRef{Group: gwv1.GroupName, Kind: kind}
	parent.Namespace, parent.Name = model.SplitKey(key)
	merged := v.listenersOf(parent)
	if merged == nil {
		return nil
	}
	http, grpc := v.routesOf(parent)
	if len(http) == 0 || len(grpc) == 0 {
		return nil
	}
	all := append(http, grpc...)
	slices.SortFunc(all, func(a, b *route) int {
		if c := a.compareAge(b); c != 0 {
			return c
		}
		return strings.Compare(a.ref.Kind, b.ref.Kind)
	})
	c := &conflict{parent: parent.String(), refused: map[string][]string{}}
	for _, l := range merged.listeners {
		taken := map[string]*hostSet{"HTTPRoute": newHostSet(), "GRPCRoute": newHostSet()}
		for _, r := range all {
			other := "HTTPRoute"
			if r.ref.Kind == other {
				other = "GRPCRoute"
			}
			hosts := v.hostsOn(l, r)
			if slices.ContainsFunc(hosts, func(h boundHost) bool { return taken[other].overlaps(h.name) }) {
				c.refused[l.key] = append(c.refused[l.key], r.ref.String())
				continue
			}
			for _, h := range hosts {
				taken[r.ref.Kind].add(h.name)
			}
		}
		slices.Sort(c.refused[l.key])
	}
	if len(c.refused) == 0 {
		return nil
	}
	return []output{out(v.conflicts, c.parent, c)}
}

// conflictsOn reports whether a route is refused on a listener for an older one of the other kind.
func (v *view) conflictsOn(l *listener, r model.ObjectRef) bool {
	c, ok := v.conflicts.Get(v.Snapshot, l.parent.String())
	if !ok {
		return false
	}
	_, refused := slices.BinarySearch(c.refused[l.key], r.String())
	return refused
}

// routesOf lists the routes that name a parent, by kind.
func (v *view) routesOf(of model.ObjectRef) (http, grpc []*route) {
	parent := kube.ParentKey(of.Kind, of.Namespace, of.Name)
	for o := range v.objs.HTTPRoutes.By(v.Snapshot, kube.ByParent, parent) {
		r := httpRouteInput(o)
		http = append(http, &r)
	}
	for o := range v.objs.GRPCRoutes.By(v.Snapshot, kube.ByParent, parent) {
		r := grpcRouteInput(o)
		grpc = append(grpc, &r)
	}
	return http, grpc
}

// hostSet holds hosts, exact ones and wildcards, so that one in common with others is found without looking at each.
type hostSet struct {
	hosts map[string]bool
	wider map[string]bool // the wildcards that cover one of them
}

func newHostSet() *hostSet { return &hostSet{map[string]bool{}, map[string]bool{}} }

func (s *hostSet) add(h string) {
	s.hosts[h] = true
	for _, w := range widerHosts(h) {
		s.wider[w] = true
	}
}

// overlaps reports whether there is a name that h and a host of the set match.
func (s *hostSet) overlaps(h string) bool {
	return s.hosts[h] || s.wider[h] || slices.ContainsFunc(widerHosts(h), func(w string) bool { return s.hosts[w] })
}
