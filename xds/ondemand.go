package xds

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// kind says how resources of one type come about.
type kind struct {
	// build makes a resource from its name alone; nil if there is none of that name.
	build func(b *builder, name string) *built
	// empty stands in for a first version that cannot be served; nil: nothing does.
	empty func(name string) proto.Message
	// single resources go one to a response: Envoy takes a secret that it refused for known when it comes again, so a
	// refused response must tell at once which one it was.
	single bool
	// A wildcard subscription holds the names of all units: parts of the model that change as one. nil: the wildcard
	// holds nothing.
	units  func(b *builder) []string
	names  func(b *builder, unit string) []string
	unitOf func(st *state.State, k state.Key) (unit string, ok bool) // the unit whose names a change of k may change
	// retained reports whether a name that its unit no longer has is kept for those who use it; nil: never.
	retained func(b *builder, name string) bool
	// frozen reports whether a resource that no longer exists is kept as it was for those who have it; nil: never.
	frozen func(name string) bool
	// mode is what the names of all units depend on, one character a variant, read from the indexes modeOf; nil: nothing.
	// A variant is kept while somebody has the wildcard, because connections that were made for it may still exist.
	mode   func(b *builder) string
	modeOf func(*state.State) []state.Key
}

// modeDirty reports whether changed keys may change the mode.
func (k *kind) modeDirty(st *state.State, keys map[state.Key]struct{}) bool {
	if k.mode == nil {
		return false
	}
	for _, key := range k.modeOf(st) {
		if _, ok := keys[key]; ok {
			return true
		}
	}
	return false
}

// grow adds the present variants to those of a mode.
func (k *kind) grow(mode string, b *builder) string {
	variants := []byte(mode + k.mode(b))
	slices.Sort(variants)
	return string(slices.Compact(variants))
}

// built is a resource and what the cache must know about it.
type built struct {
	message proto.Message
	objects []model.ObjectVersion // whose configuration it comes from
	err     error                 // why it must not be sent
	// byCaller is true of a route table that Envoy reads callerHeader for.
	byCaller bool
}

// builder is what build functions read from. Reads are remembered.
type builder struct {
	st   *state.State
	snap *state.Snapshot
	cfg  *Config
	mode string // of the kind whose names are asked for
	// excluded is what is left out of the route table that is built; nil: nothing.
	excluded *exclusions
}

// resource is what the cache holds of a name that somebody is subscribed to.
type resource struct {
	any     *anypb.Any
	version string // hash of the content; "" if there is no resource of this name
	objects []model.ObjectVersion
	invalid bool // the model's newest version cannot be served
	// byCaller is that of what was built.
	byCaller bool
	refs     int // subscriptions by name, and one if a wildcard subscription holds it
}

// ref names a resource across types.
type ref struct{ typeURL, name string }

// store is the cache of one type.
type store struct {
	typeURL   string
	kind      *kind
	resources map[string]*resource
	subs      map[*subscription]struct{}
	wildSubs  int
	mode      string
	units     map[string][]string // what the wildcard holds, by unit; nil while nobody has a wildcard subscription
	wild      map[string]int      // the same by name: how often it is held
}

// cache builds resources when they are asked for. It is guarded by the server's lock.
type cache struct {
	server *Server
	stores map[string]*store
	deps   *state.Deps[ref]
	// snap is a view of the tables that no resource is older than.
	snap     *state.Snapshot
	rejected map[string]*model.Rejection // by key; what Rejections holds when all reports are written
	excluded map[string]*exclusions      // by route table
	reports  *reports
	ahead    map[string]made // while fill runs: what it made for the names that it adds
	called   calledPorts
	room     map[*namespacePorts]struct{} // of which a port within the limit has gone since letIn
}

func newCache(s *Server) *cache {
	c := &cache{
		server: s, stores: map[string]*store{}, deps: state.NewDeps[ref](), snap: s.st.Snapshot(),
		rejected: map[string]*model.Rejection{}, excluded: map[string]*exclusions{}, reports: newReports(),
		called: calledPorts{}, room: map[*namespacePorts]struct{}{},
	}
	for url, k := range kinds {
		c.stores[url] = &store{
			typeURL: url, kind: k, resources: map[string]*resource{}, subs: map[*subscription]struct{}{}, wild: map[string]int{},
		}
	}
	return c
}

func (c *cache) builder(snap *state.Snapshot) *builder {
	return &builder{st: c.server.st, snap: snap, cfg: &c.server.cfg}
}

// update takes in the keys that commits changed: membership of wildcards first, then what read them.
func (c *cache) update(keys map[state.Key]struct{}, snap *state.Snapshot) {
	for _, s := range c.stores {
		if s.units == nil || s.kind.unitOf == nil {
			continue
		}
		if s.kind.modeDirty(c.server.st, keys) {
			if m := s.kind.grow(s.mode, c.builder(snap)); m != s.mode {
				c.fill(s, m, snap)
			}
		}
		seen := map[string]struct{}{}
		for k := range keys {
			unit, ok := s.kind.unitOf(c.server.st, k)
			if _, done := seen[unit]; !ok || done {
				continue
			}
			seen[unit] = struct{}{}
			b := c.builder(snap)
			b.mode = s.mode
			c.setUnit(s, unit, s.kind.names(b, unit), snap)
		}
	}
	c.calledChanged(keys, snap)
	for r := range c.deps.Dirty(keys) {
		if s := c.stores[r.typeURL]; s.resources[r.name] != nil {
			c.rebuild(s, r.name, snap)
		}
	}
	c.snap = snap
	for k := range keys {
		c.touchedRow(k)
	}
	c.flush()
}

// setUnit replaces the names that a unit gives to the wildcard.
func (c *cache) setUnit(s *store, unit string, names []string, snap *state.Snapshot) {
	old := s.units[unit]
	if s.kind.retained != nil {
		b := c.builder(snap)
		b.mode = s.mode
		for _, n := range old {
			if !slices.Contains(names, n) && s.kind.retained(b, n) {
				names = append(names, n)
			}
		}
	}
	if len(names) == 0 {
		delete(s.units, unit)
	} else {
		s.units[unit] = names
	}
	for _, n := range names {
		if !slices.Contains(old, n) {
			c.addWild(s, n, snap)
		}
	}
	for _, n := range old {
		if !slices.Contains(names, n) {
			c.dropWild(s, n)
		}
	}
}

func (c *cache) addWild(s *store, name string, snap *state.Snapshot) {
	s.wild[name]++
	if s.wild[name] == 1 {
		c.acquire(s, name, snap)
		s.changed(name)
	}
}

func (c *cache) dropWild(s *store, name string) {
	s.wild[name]--
	if s.wild[name] <= 0 {
		delete(s.wild, name)
		s.changed(name)
		c.release(s, name)
	}
}

// openWild fills the wildcard for its first subscriber, closeWild empties it after its last.
func (c *cache) openWild(s *store, snap *state.Snapshot) {
	s.wildSubs++
	if s.wildSubs > 1 {
		return
	}
	s.units = map[string][]string{}
	mode := ""
	if s.kind.mode != nil {
		mode = s.kind.grow("", c.builder(snap))
	}
	c.fill(s, mode, snap)
}

// fill finds the names of all units anew. What the tables hold is not remembered as read: unitOf finds what is new.
func (c *cache) fill(s *store, mode string, snap *state.Snapshot) {
	s.mode = mode
	if s.kind.units == nil {
		return
	}
	b := c.builder(snap)
	b.mode = mode
	names := map[string][]string{} // by unit
	var missing []string
	for _, u := range s.kind.units(b) {
		if _, done := names[u]; done {
			continue
		}
		names[u] = s.kind.names(b, u)
		for _, n := range names[u] {
			if s.resources[n] == nil {
				missing = append(missing, n)
			}
		}
	}
	c.makeAhead(s, missing, snap)
	for u, of := range names {
		c.setUnit(s, u, of, snap)
	}
	c.ahead = nil
}

func (c *cache) closeWild(s *store) {
	s.wildSubs--
	if s.wildSubs > 0 {
		return
	}
	s.units = nil
	for n := range s.wild {
		c.release(s, n)
	}
	s.wild = map[string]int{}
}

// acquire builds a resource for one more subscriber.
func (c *cache) acquire(s *store, name string, snap *state.Snapshot) {
	r := s.resources[name]
	if r == nil {
		r = &resource{}
		s.resources[name] = r
		c.addCalled(ref{s.typeURL, name}, snap)
		c.rebuild(s, name, snap)
	}
	r.refs++
}

// release forgets a resource when its last subscriber is gone.
func (c *cache) release(s *store, name string) {
	r := s.resources[name]
	if r == nil {
		return
	}
	if r.refs--; r.refs > 0 {
		return
	}
	delete(s.resources, name)
	c.removeCalled(ref{s.typeURL, name})
	if s.typeURL == TypeRoute {
		c.dropExclusions(name)
	}
	c.deps.Remove(ref{s.typeURL, name})
	c.server.clearRejection(s.typeURL, name)
}

// changed marks a name for the next response of everybody who wants it.
func (s *store) changed(name string) {
	for sub := range s.subs {
		if _, known := sub.known[name]; known || sub.wants(name) {
			sub.pending[name] = struct{}{}
		}
	}
}

// flush sends what is pending to whoever waits, clusters and endpoints before what names them.
func (c *cache) flush() {
	for _, url := range pushOrder {
		for sub := range c.stores[url].subs {
			sub.flush()
		}
	}
}

// pushOrder makes before it breaks: what is named goes out before what names it. Filters name scopes, and write
// what some tables are read by: see deferred.
var pushOrder = []string{TypeRuntime, TypeSecret, TypeCluster, TypeEndpoint, TypeRoute, TypeScope, TypeFilter, TypeListener}
