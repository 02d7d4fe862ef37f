package xds

import (
	"fmt"
	"maps"
	"slices"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// trialName is the name of a route table of which Envoy says whether it takes it, and which no request sees, and of the internal
// listener that has it, to which no connection leads.
const trialName = "trial"

// Bounds of the trials that the routes of one namespace get in a search. A table that was refused holds up all that share it, so
// after maxDelaying it goes on without those routes of the namespace that are suspect, and these are tried apart from it. What
// is not found by then after maxTrials is left out together. One refused route among 128 is found with 15 trials.
const maxDelaying, maxTrials = 16, 64

// trialListener makes Envoy ask for the route table, and check it by the same filters as all others.
func trialListener(cfg *Config) *listener.Listener {
	m := newHTTP(cfg, trialName)
	m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: trialName, ConfigSource: fromADS()}}
	m.HttpFilters = routingFilters(cfg)
	return &listener.Listener{
		Name:              trialName,
		StatPrefix:        trialName,
		ListenerSpecifier: internalSpecifier(),
		FilterChains:      []*listener.FilterChain{{Filters: []*listener.Filter{managed(m)}}},
	}
}

// search finds out which parts of a table an Envoy refuses. It tries groups of parts, and the halves of each group that is
// refused. Groups of several namespaces come first, so that one with much to refuse does not hold up others.
type search struct {
	table  string
	groups [][]part       // to be tried
	spent  map[string]int // trials by namespace
	// version and message are those of the refused table; "" if parts are tried that are left out already.
	version, message string
}

// searches are those of one Envoy.
type searches struct {
	queue []*search
	at    *search   // the one under way
	group []part    // is being tried
	trial *resource // the same as Envoy gets it; nil: nothing is
	count int
	// unsent says that Envoy does not have the trial yet, or not the end of the last one. last says that the last response was one.
	unsent, last bool
}

// searchFor begins to look for the parts of a refused table that Envoy refuses. It reports whether it can.
func (sub *subscription) searchFor(name, version, message string) bool {
	c, snap := sub.session.server.cache, sub.session.server.st.Snapshot()
	if sub.store.typeURL != TypeRoute || name == trialName || !sub.wants(trialName) {
		return false
	}
	if sub.searching(name) {
		return true
	}
	x := c.exclusionsOf(name)
	suspects, all := []part{}, c.partsOf(name, snap, func(r model.ObjectRef) bool { return !x.excludes(r) })
	taken := make(map[model.ObjectRef]partHash, len(all)) // without the routes that have gone
	for _, p := range all {
		if hash, ok := x.taken[p.object.ObjectRef]; ok && hash == p.hash {
			taken[p.object.ObjectRef] = hash
		} else {
			suspects = append(suspects, p)
		}
	}
	if x.taken = taken; len(suspects) == 0 {
		suspects = all // this Envoy may be another than the one that took them
	}
	if len(suspects) == 0 {
		return false
	}
	sub.search(&search{table: name, groups: [][]part{suspects}, version: version, message: message})
	return true
}

// searchRefused looks into the tables that an Envoy refused before it could try parts of them.
func (sub *subscription) searchRefused() {
	for _, name := range slices.Sorted(maps.Keys(sub.refused)) {
		if r := sub.session.server.cache.rejected[rejectionKey(TypeRoute, name)]; r != nil {
			sub.searchFor(name, sub.refused[name], r.Message)
		}
	}
}

// searching reports whether a table that was refused is not to be sent yet.
func (sub *subscription) searching(name string) bool {
	return slices.ContainsFunc(sub.searches.queue, func(s *search) bool { return s.table == name && s.version != "" })
}

func (sub *subscription) search(s *search) {
	s.spent = map[string]int{}
	idle := len(sub.searches.queue) == 0
	if sub.searches.queue = append(sub.searches.queue, s); idle {
		sub.tryNext()
	}
}

// next returns the search to go on with: one for a table that was refused, if there is any.
func (s *searches) next() *search {
	if i := slices.IndexFunc(s.queue, func(o *search) bool { return o.version != "" }); i >= 0 {
		return s.queue[i]
	}
	if len(s.queue) > 0 {
		return s.queue[0]
	}
	return nil
}

// tryAgain has an Envoy that uses the table try parts that are left out.
func (c *cache) tryAgain(name string, parts []part, snap *state.Snapshot) {
	if len(parts) == 0 {
		return
	}
	t, _ := newTable(c.builder(snap), name)
	var valid []part
	for _, p := range parts {
		if _, err := marshal(TypeRoute, t.trialRoutes([]part{p})); err != nil {
			c.exclude(name, p, excluded{message: err.Error()})
			continue
		}
		valid = append(valid, p)
	}
	for sub := range c.stores[TypeRoute].subs {
		if len(valid) == 0 || !sub.wants(name) || !sub.wants(trialName) {
			continue
		}
		s := &search{table: name, groups: [][]part{valid}}
		for _, p := range valid {
			c.excluded[name].refused[p.object.ObjectRef].trial = s
		}
		sub.search(s)
		return
	}
}

// tryNext sends the next group, or an empty table if there is none, so that Envoy keeps nothing.
func (sub *subscription) tryNext() {
	s := &sub.searches
	at := s.next()
	for at != nil && len(at.groups) == 0 {
		sub.searched(at) // which may add to the queue
		s.queue = slices.DeleteFunc(s.queue, func(o *search) bool { return o == at })
		at = s.next()
	}
	if s.at = at; at == nil {
		s.trial, s.unsent = nil, true
		return
	}
	s.group, at.groups = at.groups[0], at.groups[1:]
	if ns, one := ofOneNamespace(s.group); one {
		at.spent[ns]++
	}
	c := sub.session.server.cache
	t, _ := newTable(c.builder(c.server.st.Snapshot()), at.table)
	a, _ := marshal(TypeRoute, t.trialRoutes(s.group)) // of parts that can be encoded
	s.count++
	s.trial, s.unsent = &resource{any: a, version: fmt.Sprintf("trial-%d", s.count)}, true
}

// addTrial puts a trial that is to be sent into a response, alone.
func (sub *subscription) addTrial(r *response) {
	if s := &sub.searches; s.unsent {
		s.unsent, s.last = false, true
		sub.add(r, trialName)
	}
}

// tried takes in what Envoy said of a trial; "" is that it took it.
func (sub *subscription) tried(version, message string) {
	if s := &sub.searches; s.group != nil && s.trial.version == version {
		sub.judge(message)
	}
}

// judge draws the conclusions for the group that was tried, and goes on.
func (sub *subscription) judge(message string) {
	c, at, group := sub.session.server.cache, sub.searches.at, sub.searches.group
	sub.searches.group = nil
	ns, one := ofOneNamespace(group)
	switch {
	case message == "":
		x := c.exclusionsOf(at.table)
		for _, p := range group {
			x.taken[p.object.ObjectRef] = p.hash
			if e := x.refused[p.object.ObjectRef]; e != nil {
				e.again = true
			}
		}
	case len(group) == 1:
		c.exclude(at.table, group[0], excluded{message: tidy(TypeRoute, message), by: sub})
	case one && at.version != "" && at.spent[ns] >= maxDelaying:
		for _, p := range group {
			c.exclude(at.table, p, excluded{})
		}
	case one && at.spent[ns] >= maxTrials:
		for _, p := range group {
			c.exclude(at.table, p, excluded{
				message: "it is one of several routes of its namespace that are refused, of which no more are looked for: " + tidy(TypeRoute, message),
				by:      sub, together: true,
			})
		}
	default:
		at.split(group)
	}
	sub.tryNext()
}

// split has the halves of a group tried, which are divided where the namespace changes if there are several.
func (s *search) split(group []part) {
	half := len(group) / 2
	if _, one := ofOneNamespace(group); !one {
		ns := func(i int) string { return group[i].object.Namespace }
		before, after := half, half
		for before > 0 && ns(before) == ns(before-1) {
			before--
		}
		for after < len(group) && ns(after) == ns(after-1) {
			after++
		}
		if half = before; before == 0 || half-before > after-half && after < len(group) {
			half = after
		}
	}
	for _, g := range [][]part{group[:half], group[half:]} {
		if _, one := ofOneNamespace(g); one {
			s.groups = append(s.groups, g)
		} else {
			s.groups = slices.Insert(s.groups, 0, g)
		}
	}
}

// ofOneNamespace reports whether all parts of a group, which are in order, are of one namespace, and of which.
func ofOneNamespace(group []part) (string, bool) {
	ns := group[0].object.Namespace
	return ns, ns == group[len(group)-1].object.Namespace
}

// searched ends a search: the table is made anew, without what was found.
func (sub *subscription) searched(s *search) {
	server := sub.session.server
	c, snap := server.cache, server.st.Snapshot()
	res := sub.store.resources[s.table]
	if res == nil {
		c.dropExclusions(s.table)
		return
	}
	for _, e := range c.exclusionsOf(s.table).refused {
		if e.trial == s {
			e.trial = nil
		}
	}
	if s.version != "" {
		c.holdUntried(s.table, snap)
	}
	c.rebuild(sub.store, s.table, snap)
	if s.version != "" && res.version == s.version && sub.refused[s.table] == s.version {
		server.reject(sub.store, s.table, tidy(TypeRoute, s.message))
	}
}

// endSearches lets others try what this Envoy, whose session has ended, was to try or has refused.
func (sub *subscription) endSearches() {
	c := sub.session.server.cache
	queue := sub.searches.queue
	sub.searches = searches{}
	for _, x := range c.excluded {
		for _, e := range x.refused {
			e.again = e.again || e.by == sub
			if slices.Contains(queue, e.trial) {
				e.trial = nil
			}
		}
	}
	c.followAll(c.server.st.Snapshot())
}

// followAll has all parts tried that are due.
func (c *cache) followAll(snap *state.Snapshot) {
	s := c.stores[TypeRoute]
	for _, name := range slices.Sorted(maps.Keys(c.excluded)) {
		if s.resources[name] != nil {
			c.rebuild(s, name, snap)
		}
	}
}
