package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// rebuild makes a resource again; subscribers hear of it if its content changed.
func (c *cache) rebuild(s *store, name string, snap *state.Snapshot) {
	if c.overLimit(ref{s.typeURL, name}) {
		c.refuse(s, name)
		return
	}
	divided := s.typeURL == TypeRoute
	if divided {
		c.follow(name, snap)
	}
	m, ok := c.ahead[name]
	if !ok {
		m = c.make(s.kind, s.typeURL, name, snap)
	}
	if divided && m.err != nil && c.invalidParts(name, snap) {
		m = c.make(s.kind, s.typeURL, name, snap)
	}
	c.deps.Set(ref{s.typeURL, name}, m.reads)
	r := s.resources[name]
	old := r.version
	if m.absent && old != "" && s.kind.frozen != nil && s.kind.frozen(name) {
		return
	}
	before := r.objects
	r.objects = m.objects
	if m.err != nil {
		c.invalid(s, name, m.err)
		return
	}
	r.any, r.version, r.invalid, r.byCaller = m.any, m.version, false, m.byCaller
	if m.absent {
		c.server.clearRejection(s.typeURL, name)
	}
	switch {
	case r.version != old:
		s.changed(name)
	case !slices.Equal(before, r.objects):
		c.server.stillRejected(s, name)
	}
}

// made is a resource that was built and encoded, or why it cannot be served.
type made struct {
	any     *anypb.Any
	version string
	objects []model.ObjectVersion
	absent  bool // there is no resource of this name
	err     error
	reads   map[state.Key]struct{}
	// byCaller is that of what was built.
	byCaller bool
}

// make builds and encodes a resource. It changes nothing and is safe for concurrent use.
func (c *cache) make(k *kind, typeURL, name string, snap *state.Snapshot) made {
	b := c.builder(snap.Track())
	if typeURL == TypeRoute {
		b.excluded = c.excluded[name]
	}
	result := k.build(b, name)
	m := made{reads: b.snap.Reads()}
	if result == nil {
		m.absent = true
		return m
	}
	m.objects, m.byCaller = result.objects, result.byCaller
	a, err := marshal(typeURL, result.message)
	if m.err = errors.Join(result.err, err); m.err == nil {
		m.any, m.version = a, version(a)
	}
	return m
}

// makeAhead makes resources on all processors, for rebuild to take. An Envoy that comes after a start of the agent asks for
// thousands at once.
func (c *cache) makeAhead(s *store, names []string, snap *state.Snapshot) {
	results := make([]made, len(names))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names); i = int(next.Add(1)) - 1 {
				results[i] = c.make(s.kind, s.typeURL, names[i], snap)
			}
		})
	}
	wg.Wait()
	c.ahead = make(map[string]made, len(names))
	for i, n := range names {
		c.ahead[n] = results[i]
	}
}

// invalid reports a resource that breaks the rules of Envoy's protos: Envoy would refuse it, and tell less. The last
// good version is kept; where there is none, an empty one is served, because Envoy waits for a route table that does not come.
func (c *cache) invalid(s *store, name string, err error) {
	r := s.resources[name]
	r.invalid = true
	c.server.reject(s, name, err.Error())
	if r.version != "" || s.kind.empty == nil {
		return
	}
	if a, err := marshal(s.typeURL, s.kind.empty(name)); err == nil {
		r.any, r.version = a, version(a)
		s.changed(name)
	}
}

// marshal refuses what breaks the rules of Envoy's protos, and text that is not UTF-8.
func marshal(typeURL string, m proto.Message) (*anypb.Any, error) {
	if v, ok := m.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return nil, err
		}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: typeURL, Value: value}, nil
}

func version(a *anypb.Any) string {
	h := sha256.Sum256(a.Value)
	return hex.EncodeToString(h[:8])
}
