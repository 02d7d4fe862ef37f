package xds

import (
	"math"
	"slices"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previous "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"golang.org/x/net/http/httpguts"

	"github.com/weft-mesh/weft/internal/model"
)

const million = 1_000_000

// forwards returns the routes of a rule with backends: the share of invalid ones is answered with 500, the rest is
// forwarded. Requests with a method that may be repeated get routes of their own, with retries that others must not
// have.
func (t *table) forwards(r *model.Rule) []*routev3.Route {
	var valid []model.Backend
	var total, invalid uint64
	for _, b := range r.Backends {
		total += uint64(b.Weight)
		switch {
		case b.Weight == 0:
		case b.Invalid:
			invalid += uint64(b.Weight)
		default:
			valid = append(valid, b)
		}
	}
	if len(valid) == 0 {
		return []*routev3.Route{{Action: directResponse(500)}}
	}
	var routes []*routev3.Route
	if invalid > 0 {
		routes = append(routes, &routev3.Route{
			Match:  &routev3.RouteMatch{RuntimeFraction: fraction(uint32(invalid*million/total), million)},
			Action: directResponse(500),
		})
	}
	shares := divide(valid, invalid, total)
	forward := func(methods []*routev3.HeaderMatcher, retry *routev3.RetryPolicy) {
		for _, s := range shares {
			routes = append(routes, &routev3.Route{
				Match:  &routev3.RouteMatch{Headers: methods, RuntimeFraction: s.fraction},
				Action: &routev3.Route_Route{Route: t.action(r, s.backends, retry)},
			})
		}
	}
	switch {
	case r.BackendTimeout != nil:
		// Envoy repeats what got no answer in time together with what a connection broke under. The author of a rule with
		// both settings wants that; without a retry, the time of a try is the time of the request.
		forward(nil, retryPolicy(r, r.Retry != nil))
	case r.Match.Method != "":
		forward(nil, retryPolicy(r, slices.Contains(repeatable, r.Match.Method)))
	default:
		methods := headerMatch(":method", matching(strings.Join(repeatable, "|")))
		forward([]*routev3.HeaderMatcher{methods}, retryPolicy(r, true))
		forward(nil, retryPolicy(r, false))
	}
	return routes
}

// share is the backends of one Envoy route; fraction is nil for all requests that reach it.
type share struct {
	backends []model.Backend
	fraction *core.RuntimeFractionalPercent
}

// divide puts backends into as few routes as can be. The clusters of a route share how it rewrites, so where a backend has a
// Rewrite each gets a route of its own. Envoy compares the fractions of all routes with one number of the request: that of a
// route includes those before it, which begin with the share of invalid backends.
func divide(backends []model.Backend, invalid, total uint64) []share {
	if !slices.ContainsFunc(backends, func(b model.Backend) bool { return b.Rewrite != nil }) {
		return []share{{backends: backends}}
	}
	out := make([]share, len(backends))
	passed := invalid
	for i, b := range backends {
		out[i].backends = backends[i : i+1]
		if passed += uint64(b.Weight); i < len(backends)-1 {
			out[i].fraction = fraction(uint32(passed*million/total), million)
		}
	}
	return out
}

// repeatable are the methods that a proxy may send again when a connection broke (RFC 9110, 9.2.2; the idempotent
// ones that change something are left out).
var repeatable = []string{"GET", "HEAD", "OPTIONS"}

func (t *table) action(r *model.Rule, backends []model.Backend, retry *routev3.RetryPolicy) *routev3.RouteAction {
	a := &routev3.RouteAction{Timeout: duration(0), RetryPolicy: retry}
	if r.Timeout != nil {
		a.Timeout = duration(*r.Timeout)
	}
	if !t.gateway {
		a.IdleTimeout = duration(0) // lifts boundWait's bound
	}
	t.setClusters(a, r, backends)
	if w := r.RewriteFor(backends[0]); w != nil {
		setRewrite(a, r.Match.Path, w)
	}
	for _, m := range r.Mirrors {
		if !m.Backend.Invalid && m.Denominator != 0 {
			a.RequestMirrorPolicies = append(a.RequestMirrorPolicies, t.mirror(m, r))
		}
	}
	return a
}

func (t *table) setClusters(a *routev3.RouteAction, r *model.Rule, backends []model.Backend) {
	for _, b := range backends {
		if s, ok := t.b.st.Services.Get(t.b.snap, model.Key(b.Namespace, b.Name)); ok && s.Affinity > 0 {
			a.HashPolicy = byClient()
		}
	}
	if b := backends[0]; len(backends) == 1 && emptyChange(b.RequestHeaders) && emptyChange(b.ResponseHeaders) {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: t.cluster(b, r)}
		return
	}
	w := &routev3.WeightedCluster{}
	for _, b := range backends {
		c := &routev3.WeightedCluster_ClusterWeight{Name: t.cluster(b, r), Weight: number(b.Weight)}
		c.RequestHeadersToAdd, c.RequestHeadersToRemove = headerChanges(b.RequestHeaders)
		c.ResponseHeadersToAdd, c.ResponseHeadersToRemove = headerChanges(b.ResponseHeaders)
		w.Clusters = append(w.Clusters, c)
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
}

// cluster names a backend's cluster for the callers of this table.
func (t *table) cluster(b model.Backend, r *model.Rule) string { return t.clusterOf(b, r, t.gateway) }

// clusterOf names it with the protocol that the rule means, if explicit says so, or with that of the client.
func (t *table) clusterOf(b model.Backend, r *model.Rule, explicit bool) string {
	n := serviceName{namespace: b.Namespace, name: b.Name, port: b.Port, plain: t.plain}
	if t.certificate != "" && backendTLS(t.b, n.portKey()) != nil {
		n.certificate = t.certificate
	}
	if explicit {
		n.protocol = httpSuffix
		if r.Match.GRPC {
			n.protocol = grpcSuffix
		}
	}
	return n.String()
}

// byClient keeps a client on one endpoint: a pod is its network namespace, a client of a Gateway its address.
func byClient() []*routev3.RouteAction_HashPolicy {
	return []*routev3.RouteAction_HashPolicy{{
		PolicySpecifier: &routev3.RouteAction_HashPolicy_FilterState_{
			FilterState: &routev3.RouteAction_HashPolicy_FilterState{Key: stateNetNS},
		},
		Terminal: true,
	}, {
		PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		},
	}}
}

// hostSelections bounds how often a retry chooses anew because it got an endpoint that was tried before. Envoy does not count
// requests that wait for a connection, so an endpoint that does not answer looks the least busy: beside one other it is
// chosen three times out of four.
const hostSelections = 32

// longestBackoff keeps ten times of it from being negative, for which Envoy refuses the table. The Gateway API allows 45 years.
const longestBackoff = math.MaxInt64 / 10

// retryPolicy: what was surely not processed is sent again, so that endpoints can come and go; a rule's own Retry includes
// what a gRPC server answers with UNAVAILABLE (GEP-1731). A request that may have been processed is sent again if mayRepeat
// says so: its method changes nothing, or the rule's author asked for tries of bounded time.
func retryPolicy(r *model.Rule, mayRepeat bool) *routev3.RetryPolicy {
	on := []string{"connect-failure", "refused-stream", "reset-before-request"}
	p := &routev3.RetryPolicy{
		NumRetries:                    number(3),
		HostSelectionRetryMaxAttempts: hostSelections,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: typed(&previous.PreviousHostsPredicate{}),
			},
		}},
	}
	if mayRepeat {
		on = append(on, "reset")
	}
	if r.BackendTimeout != nil {
		p.PerTryTimeout = duration(*r.BackendTimeout)
	}
	if r.Retry != nil {
		p.NumRetries = number(uint32(max(r.Retry.Attempts, 0)))
		on = append(on, "unavailable")
		for _, c := range r.Retry.Codes {
			p.RetriableStatusCodes = append(p.RetriableStatusCodes, uint32(c))
		}
		if len(r.Retry.Codes) > 0 {
			on = append(on, "retriable-status-codes")
		}
		if d := r.Retry.Backoff; d >= time.Millisecond {
			d = min(d, longestBackoff)
			p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(d), MaxInterval: duration(10 * d)}
		}
	}
	p.RetryOn = strings.Join(on, ",")
	return p
}

func fraction(numerator, denominator uint32) *core.RuntimeFractionalPercent {
	f := &typev3.FractionalPercent{Numerator: numerator}
	switch denominator {
	case 100:
		f.Denominator = typev3.FractionalPercent_HUNDRED
	case 10_000:
		f.Denominator = typev3.FractionalPercent_TEN_THOUSAND
	case million:
		f.Denominator = typev3.FractionalPercent_MILLION
	default:
		f.Numerator = uint32(uint64(numerator) * million / uint64(denominator))
		f.Denominator = typev3.FractionalPercent_MILLION
	}
	return &core.RuntimeFractionalPercent{DefaultValue: f}
}

// headerChanges keeps the order Set, Add, Remove: Envoy removes first, so what is removed is neither set nor added.
func headerChanges(c model.HeaderChange) (add []*core.HeaderValueOption, remove []string) {
	gone := map[string]bool{}
	for _, n := range c.Remove {
		gone[strings.ToLower(n)] = true
		remove = append(remove, n)
	}
	for _, h := range c.Set {
		if !gone[strings.ToLower(h.Name)] {
			add = append(add, setHeader(h.Name, literal(h.Value)))
		}
	}
	for _, h := range c.Add {
		if !gone[strings.ToLower(h.Name)] {
			add = append(add, addHeader(h.Name, literal(h.Value)))
		}
	}
	return add, remove
}

func emptyChange(c model.HeaderChange) bool { return len(c.Set)+len(c.Add)+len(c.Remove) == 0 }

// validChanges reports whether Envoy will take what a rule does to headers and hosts, else it would refuse the table, and
// whether the rule leaves alone what the mesh itself says in headers.
func validChanges(r *model.Rule) bool {
	changes := []model.HeaderChange{r.RequestHeaders, r.ResponseHeaders}
	reserved := r.RequestHeaders.Reserved() != ""
	for _, b := range r.Backends {
		changes = append(changes, b.RequestHeaders, b.ResponseHeaders)
		reserved = reserved || b.RequestHeaders.Reserved() != ""
	}
	if reserved {
		return false
	}
	for _, c := range changes {
		for _, h := range slices.Concat(c.Set, c.Add) {
			if !changeable(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
				return false
			}
		}
		for _, n := range c.Remove {
			if !changeable(n) {
				return false
			}
		}
	}
	hosts := []string{}
	if r.Redirect != nil {
		hosts = append(hosts, r.Redirect.Host)
	}
	if r.Rewrite != nil {
		hosts = append(hosts, r.Rewrite.Host)
	}
	for _, b := range r.Backends {
		if b.Rewrite != nil {
			hosts = append(hosts, b.Rewrite.Host)
		}
	}
	return !slices.ContainsFunc(hosts, func(h string) bool { return !httpguts.ValidHostHeader(h) })
}

func changeable(header string) bool {
	return httpguts.ValidHeaderFieldName(header) && !strings.EqualFold(header, "host")
}
