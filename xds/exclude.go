package xds

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// exclusions are the parts of a route table that are left out of it, and what is known of the others. A table has them from the
// first time that Envoy refused it until nobody is subscribed to it any more. There is at most one entry for each route of the
// table.
type exclusions struct {
	taken   map[model.ObjectRef]partHash  // parts that Envoy took in a trial
	refused map[model.ObjectRef]*excluded // parts that are left out
}

// excluded is a part that is left out.
type excluded struct {
	object  model.ObjectVersion
	hash    partHash // of the rules that were refused
	message string   // why; "" while the part waits for its first trial
	// together is true if Envoy refused the part with others of its namespace, and was not asked about each.
	together bool
	again    bool          // to be tried though it has not changed
	trial    *search       // is to try it; nil: none
	by       *subscription // the Envoy that refused; nil if the rules of its protos did
}

// due reports whether an excluded part, as it is now, is to be tried.
func (e *excluded) due(now partHash) bool { return e.again || e.message == "" || e.hash != now }

func (x *exclusions) excludes(r model.ObjectRef) bool {
	if x == nil {
		return false
	}
	_, ok := x.refused[r]
	return ok
}

// exclusionsOf returns those of a table, which it makes if there are none.
func (c *cache) exclusionsOf(name string) *exclusions {
	x := c.excluded[name]
	if x == nil {
		x = &exclusions{taken: map[model.ObjectRef]partHash{}, refused: map[model.ObjectRef]*excluded{}}
		c.excluded[name] = x
	}
	return x
}

// exclude leaves a part out of a table, and reports it against its object.
func (c *cache) exclude(name string, p part, e excluded) {
	e.object, e.hash = p.object, p.hash
	x := c.exclusionsOf(name)
	delete(x.taken, p.object.ObjectRef)
	x.refused[p.object.ObjectRef] = &e
	c.reportPart(name, &e)
}

// include no longer leaves a part out.
func (c *cache) include(name string, r model.ObjectRef) {
	delete(c.excluded[name].refused, r)
	if key := partKey(name, r); c.rejected[key] != nil {
		delete(c.rejected, key)
		c.reports.rejection(key)
	}
}

// dropExclusions forgets what is known of a table.
func (c *cache) dropExclusions(name string) {
	if x := c.excluded[name]; x != nil {
		for r := range x.refused {
			c.include(name, r)
		}
		delete(c.excluded, name)
	}
}

// reportPart writes the row of an excluded part. One that waits for its first trial has none.
func (c *cache) reportPart(name string, e *excluded) {
	if e.message == "" {
		return
	}
	key := partKey(name, e.object.ObjectRef)
	c.rejected[key] = &model.Rejection{Resource: key, Objects: []model.ObjectVersion{e.object}, Message: e.message}
	c.reports.rejection(key)
}

// partKey names a part of a table as if it was a resource.
func partKey(table string, r model.ObjectRef) string {
	return rejectionKey(TypeRoute, table) + " for " + r.String()
}

// follow brings the exclusions of a table up to date with its routes: those of parts that have gone end, and parts that have
// changed since they were refused are tried again. Until they are taken they are left out, as before. Parts that were refused
// together are tried again once another one of their namespace has gone or is taken.
func (c *cache) follow(name string, snap *state.Snapshot) {
	x := c.excluded[name]
	if x == nil || len(x.refused) == 0 {
		return
	}
	now := map[model.ObjectRef]part{}
	for _, p := range c.partsOf(name, snap, x.excludes) {
		now[p.object.ObjectRef] = p
	}
	free := map[string]bool{} // namespaces of which a refused part has gone, or is taken now
	for r, e := range x.refused {
		if p := now[r]; p.rules == nil || e.due(p.hash) && x.taken[r] == p.hash {
			free[r.Namespace] = free[r.Namespace] || !e.together
			c.include(name, r)
		}
	}
	var try []part
	for r, e := range x.refused {
		e.again = e.again || e.together && free[r.Namespace]
		switch p := now[r]; {
		case e.due(p.hash) && e.trial == nil:
			try = append(try, p)
		case !e.due(p.hash) && e.object != p.object:
			e.object = p.object
			c.reportPart(name, e)
		}
	}
	slices.SortFunc(try, comparePart)
	c.tryAgain(name, try, snap)
}

// holdUntried leaves out what was not tried of namespaces with an excluded part. It is called before a table is sent again that
// was refused: a namespace whose routes change all the time must not have it refused again each time.
func (c *cache) holdUntried(name string, snap *state.Snapshot) {
	x := c.excluded[name]
	suspect := map[string]bool{}
	for r := range x.refused {
		suspect[r.Namespace] = true
	}
	if len(suspect) == 0 {
		return
	}
	for _, p := range c.partsOf(name, snap, func(r model.ObjectRef) bool { return suspect[r.Namespace] && !x.excludes(r) }) {
		if taken, ok := x.taken[p.object.ObjectRef]; !ok || taken != p.hash {
			c.exclude(name, p, excluded{})
		}
	}
}

// invalidParts excludes the parts of a table that break the rules of Envoy's protos. It reports whether there are any.
func (c *cache) invalidParts(name string, snap *state.Snapshot) bool {
	t, source := newTable(c.builder(snap), name)
	if source == nil {
		return false
	}
	found := false
	for _, p := range partsOf(source, func(r model.ObjectRef) bool { return !c.excluded[name].excludes(r) }) {
		if _, err := marshal(TypeRoute, t.trialRoutes([]part{p})); err != nil {
			c.exclude(name, p, excluded{message: err.Error()})
			found = true
		}
	}
	return found
}

// partsOf returns the wanted parts of a table of this name.
func (c *cache) partsOf(name string, snap *state.Snapshot, wanted func(model.ObjectRef) bool) []part {
	_, source := newTable(c.builder(snap), name)
	if source == nil {
		return nil
	}
	return partsOf(source, wanted)
}
