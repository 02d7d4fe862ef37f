package xds

import (
	"context"
	"errors"
	"maps"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// session is one Envoy's stream. It is the cache that go-control-plane's delta server watches for that stream.
type session struct {
	server *Server
	subs   map[string]*subscription // by type
	// resumed is true if the Envoy has resources from an earlier stream.
	resumed bool
}

// subscription is what one Envoy wants and has of one type. Everything is guarded by the server's lock.
type subscription struct {
	session  *session
	store    *store
	named    map[string]struct{}
	wildcard bool
	known    map[string]string   // what Envoy has: name -> version, "" if the server answered that there is none
	pending  map[string]struct{} // names to look at for the next response
	apart    [][]string          // parts of a refused response, to be sent each alone
	refused  map[string]string   // name -> version that Envoy refused
	inflight []*response         // sent, not answered
	waiting  map[string]int      // how many responses in flight hold a name
	searches searches            // of parts of route tables that Envoy refuses
	// older are the filters that choose scopes, by name, in the version that Envoy has from an earlier stream, until it has
	// accepted one of this stream.
	older map[string]string

	out chan gcp.DeltaResponse // where the next response goes; nil while Envoy has not asked for one
	req *gcp.DeltaRequest
}

func newSession(s *Server) *session { return &session{server: s, subs: map[string]*subscription{}} }

// close forgets the Envoy and what only it was subscribed to.
func (ss *session) close() {
	ss.server.mu.Lock()
	defer ss.server.mu.Unlock()
	for _, sub := range ss.subs {
		delete(sub.store.subs, sub)
		sub.out = nil
	}
	c := ss.server.cache
	for _, sub := range ss.subs {
		for n := range sub.named {
			c.release(sub.store, n)
		}
		if sub.wildcard {
			c.closeWild(sub.store)
		}
	}
	for _, sub := range ss.subs {
		sub.forgetRefusals()
	}
	if routes := ss.subs[TypeRoute]; routes != nil {
		routes.endSearches()
	}
	c.reports.subject(model.Envoy, false)
	c.touchAll(true)
	c.letIn(ss.server.st.Snapshot())
	c.flush()
}

// CreateDeltaWatch takes in a request (names, an answer to an earlier response, or both) and answers it at once or
// when there is something to send.
func (ss *session) CreateDeltaWatch(req *gcp.DeltaRequest, state gcp.Subscription, out chan gcp.DeltaResponse) (func(), error) {
	s := ss.server
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.cache.stores[req.GetTypeUrl()]
	if st == nil {
		s.log.Warn("Envoy asked for a resource type that this agent does not serve; check that Envoy has the version that Weft pins", "type", req.GetTypeUrl(), "node", req.GetNode().GetId())
		return func() {}, nil
	}
	sub, first := ss.subs[st.typeURL], false
	if sub == nil {
		first = true
		sub = &subscription{
			session: ss, store: st, named: map[string]struct{}{}, known: map[string]string{},
			pending: map[string]struct{}{}, refused: map[string]string{}, waiting: map[string]int{}, older: map[string]string{},
		}
		ss.subs[st.typeURL] = sub
		st.subs[sub] = struct{}{}
		s.cache.reports.subject(model.Envoy, false)
	}
	sub.answered(req)
	sub.subscribe(req, state, first)
	s.cache.letIn(s.st.Snapshot())
	sub.out, sub.req = out, req
	if first && sub.wildcard {
		sub.send(true) // Envoy waits for the first answer to a wildcard, though it be empty
	}
	s.cache.flush()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		sub.out = nil
	}, nil
}

// subscribe takes in the names of a request.
func (sub *subscription) subscribe(req *gcp.DeltaRequest, state gcp.Subscription, first bool) {
	c, snap := sub.session.server.cache, sub.session.server.st.Snapshot()
	names := req.GetResourceNamesSubscribe()
	if first {
		// What it knows from an earlier stream: same versions are not sent again.
		maps.Copy(sub.known, req.GetInitialResourceVersions())
		sub.session.resumed = sub.session.resumed || len(sub.known) > 0
		for n, v := range sub.known {
			sub.pending[n] = struct{}{}
			c.touched(sub.store.typeURL, n)
			if sub.store.typeURL == TypeFilter && choosesScope(n) {
				sub.older[n] = v
			}
		}
		if sub.store.typeURL == TypeScope {
			c.touchServices(false)
		}
	}
	if wild := state.IsWildcard(); wild != sub.wildcard {
		sub.wildcard = wild
		if wild {
			c.openWild(sub.store, snap)
		} else {
			c.closeWild(sub.store)
		}
		for n := range sub.store.wild {
			sub.pending[n] = struct{}{}
		}
	}
	for _, n := range names {
		if n == "*" {
			continue
		}
		if _, ok := sub.named[n]; !ok {
			sub.named[n] = struct{}{}
			c.acquire(sub.store, n, snap)
			if n == trialName && sub.store.typeURL == TypeRoute {
				c.followAll(snap)
				sub.searchRefused()
			}
		}
		if !first {
			delete(sub.known, n) // asked for, so it wants an answer
		}
		sub.pending[n] = struct{}{}
	}
	for _, n := range req.GetResourceNamesUnsubscribe() {
		if _, ok := sub.named[n]; !ok {
			continue
		}
		delete(sub.named, n)
		if sub.wildcard && sub.store.wild[n] > 0 {
			delete(sub.known, n) // the protocol wants it sent again
			sub.pending[n] = struct{}{}
		} else if !sub.wildcard {
			delete(sub.known, n)
		}
		c.release(sub.store, n)
	}
}

func (sub *subscription) wants(name string) bool {
	if _, ok := sub.named[name]; ok {
		return true
	}
	return sub.wildcard && sub.store.wild[name] > 0
}

// flush answers if Envoy waits and there is something to send.
func (sub *subscription) flush() {
	if sub.out != nil && (len(sub.pending) > 0 || len(sub.apart) > 0 || sub.searches.unsent) {
		sub.send(false)
	}
}

// send hands a response to the stream. Empty ones are sent only if always is set.
func (sub *subscription) send(always bool) {
	r := &response{req: sub.req, message: &discovery.DeltaDiscoveryResponse{TypeUrl: sub.store.typeURL}}
	for len(sub.apart) > 0 && r.empty() {
		part := sub.apart[0]
		sub.apart = sub.apart[1:]
		for _, n := range part {
			sub.add(r, n)
		}
	}
	// Trials and what is to be served take turns: neither holds up the other.
	if r.empty() && !sub.searches.last {
		sub.addTrial(r)
	}
	if r.empty() {
		sub.addPending(r)
	}
	if r.empty() {
		sub.addTrial(r)
	}
	if r.empty() && !always {
		return
	}
	out := sub.out
	sub.out = nil
	sub.inflight = append(sub.inflight, r)
	for _, res := range r.message.Resources {
		sub.waiting[res.Name]++
	}
	out <- r // has room: there is at most one response a type that the stream has not taken yet
	sub.endpointsAgain(r)
}

// addPending puts what is pending into a response.
func (sub *subscription) addPending(r *response) {
	sub.searches.last = false
	for _, n := range slices.Sorted(maps.Keys(sub.pending)) {
		if sub.deferred(n) {
			continue
		}
		sub.add(r, n)
		delete(sub.pending, n)
		if sub.store.kind.single && len(r.message.Resources) > 0 {
			break
		}
	}
}

// deferred reports whether a name must wait: a route table until it is known what of it Envoy refuses, or that requests have the
// header that it is read by; and a filter for Envoy to have all scopes or its workload's listeners. A filter that chooses the scopes of callers with an
// identity, or of those without, may be the first to do so on the node. Requests would find no scope and be answered 404.
// A new version of a policy comes last, so that workers that have it have the listeners too.
func (sub *subscription) deferred(name string) bool {
	if sub.store.typeURL == TypeRoute {
		res := sub.store.resources[name]
		return sub.searching(name) || res != nil && res.byCaller && sub.wants(name) && sub.session.callerUnwritten()
	}
	if sub.store.typeURL != TypeFilter || sub.known[name] == "" {
		return false
	}
	if !choosesScope(name) {
		return sub.session.listenersPending(name)
	}
	scopes := sub.session.subs[TypeScope]
	return scopes != nil && len(scopes.pending)+len(scopes.apart)+len(scopes.inflight) > 0
}

// callerUnwritten reports whether this Envoy may have a filter that chooses scopes and does not write callerHeader, as that of an
// agent of an older version. Envoy 1.40 answers 404 to a request without the header if its table has a VhostHeader, also where a
// virtual host is for all; one whose header has another value gets that one. Until Envoy has accepted the filter of this agent it goes on
// with the tables that it has. A request that waits for its first table at that moment has passed the old filter, and is
// answered 404. The way back, to an older agent, has no such moment: it sends tables that do not read the header before filters
// that do not write it.
//
// An Envoy that has resources from an earlier stream, and has not asked for filters on this one, may have old ones.
func (ss *session) callerUnwritten() bool {
	filters := ss.subs[TypeFilter]
	if filters == nil {
		return ss.resumed
	}
	for name, had := range filters.older {
		res := filters.store.resources[name]
		if filters.wants(name) && res != nil && res.version != "" && res.version != had {
			return true
		}
		delete(filters.older, name) // it is the same, or there is none any more
	}
	return false
}

// listenersPending reports whether the listeners of a filter's workload are still to be sent, or to be answered.
func (ss *session) listenersPending(filter string) bool {
	listeners := ss.subs[TypeListener]
	key, _, ok := cutWorkloadName(filter)
	if !ok || listeners == nil {
		return false
	}
	return slices.ContainsFunc([]string{inHBONE, inPlain, inHTTP}, func(suffix string) bool {
		name := key + "/" + suffix
		_, pending := listeners.pending[name]
		return pending || listeners.waiting[name] > 0
	})
}

// add puts what Envoy does not have of a name into a response.
func (sub *subscription) add(r *response, name string) {
	res, had := sub.store.resources[name], sub.known[name]
	if name == trialName && sub.searches.trial != nil {
		res = sub.searches.trial
	}
	_, knew := sub.known[name]
	switch {
	case !sub.wants(name):
		if had != "" {
			r.message.RemovedResources = append(r.message.RemovedResources, name)
		}
		delete(sub.known, name)
		delete(sub.refused, name)
	case res == nil || res.version == "":
		delete(sub.refused, name)
		if _, named := sub.named[name]; had != "" || named && !knew {
			r.message.RemovedResources = append(r.message.RemovedResources, name)
		}
		sub.known[name] = ""
	case res.version != had:
		r.message.Resources = append(r.message.Resources, &discovery.Resource{Name: name, Version: res.version, Resource: res.any})
		if had != "" {
			r.replaced = append(r.replaced, name)
		}
		sub.known[name] = res.version
	}
}

// endpointsAgain sends the endpoints of clusters that were replaced once more: Envoy's new cluster waits for them, but
// does not ask, for the stream is subscribed to them already.
func (sub *subscription) endpointsAgain(r *response) {
	endpoints := sub.session.subs[TypeEndpoint]
	if sub.store.typeURL != TypeCluster || endpoints == nil {
		return
	}
	for _, n := range r.replaced {
		if _, ok := endpoints.named[n]; ok {
			delete(endpoints.known, n)
			endpoints.pending[n] = struct{}{}
		}
	}
}

// CreateWatch is not served: delta only.
func (ss *session) CreateWatch(*gcp.Request, gcp.Subscription, chan gcp.Response) (func(), error) {
	return nil, errors.New("xds: state-of-the-world xDS is not served; Envoy must use DELTA_GRPC")
}

// Fetch is not served: delta only.
func (ss *session) Fetch(context.Context, *gcp.Request) (gcp.Response, error) {
	return nil, errors.New("xds: fetching by REST is not served; Envoy must use DELTA_GRPC")
}

// response is a DeltaDiscoveryResponse on its way. The server writes the nonce into message when it sends it.
type response struct {
	req      *gcp.DeltaRequest
	message  *discovery.DeltaDiscoveryResponse
	replaced []string // names that Envoy had in another version
}

func (r *response) empty() bool {
	return len(r.message.Resources) == 0 && len(r.message.RemovedResources) == 0
}

func (r *response) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return r.req }

func (r *response) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	return r.message, nil
}

func (r *response) GetSystemVersion() (string, error) { return "", nil }

func (r *response) GetResponseVersion() string { return "" }

// GetNextVersionMap is empty: the subscription itself remembers what Envoy has.
func (r *response) GetNextVersionMap() map[string]string { return map[string]string{} }

func (r *response) GetReturnedResources() map[string]string { return map[string]string{} }

func (r *response) GetContext() context.Context { return context.Background() }
