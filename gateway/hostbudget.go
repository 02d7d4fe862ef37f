package gateway

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/state"
)

// A request that no route of the most specific hostname matches goes to those of wider names, so Envoy gets the rules of a wide
// name once more for each narrower host of the listener: 128 matches of *.example.com are 128,000 beside a thousand hosts of it.
//
// Copies for hosts of the wildcard's own namespace count against its share, at the younger of the two routes. Copies for hosts of
// another namespace count against neither: each could use up the other's share. They have a part of the table of their own, which
// pairs of namespaces divide. A pair that does not fit has no copies: requests for the hosts of one do not go on to the wildcards
// of the other.

// sharedCopies is what copies of rules for hosts of other namespaces may take, of the matches and expressions of all routes.
var sharedCopies = load{matches: maxTableMatches / 4, expressions: maxExpressionKB / 4}

// listenerHosts are hosts that a route has on a listener.
type listenerHosts struct {
	listener string // key
	hosts    []string
}

// hostDemand returns the hosts that a route may have on listeners of Gateways.
func (v *view) hostDemand(r *route) []listenerHosts {
	if r.streams() {
		return nil
	}
	var out []listenerHosts
	seen := map[string]bool{}
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		merged := v.listenersOf(parentObject(p, r.ref.Namespace))
		if merged == nil {
			continue
		}
		for _, l := range merged.listeners {
			if seen[l.key] {
				continue
			}
			seen[l.key] = true
			on := listenerHosts{listener: l.key}
			for _, h := range v.hostsOn(l, r) {
				on.hosts = append(on.hosts, h.name)
			}
			if len(on.hosts) > 0 {
				out = append(out, on)
			}
		}
	}
	return out
}

// hostCopies counts the copies of rules that Envoy holds for narrower hosts.
type hostCopies struct {
	hosts map[namespaceHost]bool
	below map[listenerHost]map[string]int  // by wildcard and namespace, the narrower hosts
	wide  map[listenerHost]map[string]load // by wildcard and namespace, what the routes of the wildcard take
}

type listenerHost struct{ listener, host string }

type namespaceHost struct {
	listenerHost
	namespace string
}

func newHostCopies() *hostCopies {
	return &hostCopies{hosts: map[namespaceHost]bool{}, below: map[listenerHost]map[string]int{}, wide: map[listenerHost]map[string]load{}}
}

// of returns what the copies of a route's rules take for hosts of its namespace, and those of the namespace's other rules for its
// hosts, given the routes that were added.
func (c *hostCopies) of(d *routeDemand) (sum load) {
	for _, on := range d.hosts {
		for _, h := range on.hosts {
			at := listenerHost{on.listener, h}
			sum = sum.plus(d.each.times(c.below[at][d.namespace]))
			if c.hosts[namespaceHost{at, d.namespace}] {
				continue
			}
			for _, w := range widerHosts(h) {
				sum = sum.plus(c.wide[listenerHost{on.listener, w}][d.namespace])
			}
		}
	}
	return sum
}

// add adds a route, and returns what of returned before.
func (c *hostCopies) add(d *routeDemand) load {
	sum := c.of(d)
	for _, on := range d.hosts {
		for _, h := range on.hosts {
			at := listenerHost{on.listener, h}
			if owned := (namespaceHost{at, d.namespace}); !c.hosts[owned] {
				c.hosts[owned] = true
				for _, w := range widerHosts(h) {
					changeAt(c.below, listenerHost{on.listener, w}, d.namespace, func(n int) int { return n + 1 })
				}
			}
			if strings.HasPrefix(h, "*") {
				changeAt(c.wide, at, d.namespace, d.each.plus)
			}
		}
	}
	return sum
}

func changeAt[V any](m map[listenerHost]map[string]V, at listenerHost, namespace string, to func(V) V) {
	if m[at] == nil {
		m[at] = map[string]V{}
	}
	m[at][namespace] = to(m[at][namespace])
}

// fallback names two namespaces: requests for hosts of the one that none of its rules matches go on to wildcards of the other.
type fallback struct{ hosts, wildcards string }

// fallbackRefusal holds the fallbacks that a listener does not have, because their copies do not fit.
type fallbackRefusal struct {
	listener string // key
	refused  map[fallback]bool
}

func newFallbackRefusals(db *state.DB) *state.Table[*fallbackRefusal] {
	return state.NewTable(db, "gateway-fallback-refusals", func(r *fallbackRefusal) string { return r.listener })
}

// each yields the fallbacks of each listener with what their copies take.
func (c *hostCopies) each(yield func(listener string, f fallback, copies load)) {
	for at, wide := range c.wide {
		for hosts, n := range c.below[at] {
			for wildcards, each := range wide {
				if hosts != wildcards {
					yield(at.listener, fallback{hosts, wildcards}, each.times(n))
				}
			}
		}
	}
}

// refusals returns, by listener, the fallbacks that sharedCopies does not suffice for. Pairs of namespaces that ask for least come
// first, so that one that asks for its part of all keeps it, whatever others ask for.
func (c *hostCopies) refusals() []*fallbackRefusal {
	asked := map[fallback]load{}
	c.each(func(_ string, f fallback, copies load) { asked[f] = asked[f].plus(copies) })
	left, refused := sharedCopies, map[fallback]bool{}
	for _, f := range slices.SortedFunc(maps.Keys(asked), func(a, b fallback) int {
		return cmp.Or(cmp.Compare(asked[a].shareOf(sharedCopies), asked[b].shareOf(sharedCopies)), strings.Compare(a.hosts, b.hosts), strings.Compare(a.wildcards, b.wildcards))
	}) {
		if asked[f].within(left) {
			left = left.minus(asked[f])
		} else {
			refused[f] = true
		}
	}
	by := map[string]*fallbackRefusal{}
	c.each(func(listener string, f fallback, _ load) {
		if !refused[f] {
			return
		}
		if by[listener] == nil {
			by[listener] = &fallbackRefusal{listener, map[fallback]bool{}}
		}
		by[listener].refused[f] = true
	})
	return slices.SortedFunc(maps.Values(by), func(a, b *fallbackRefusal) int { return strings.Compare(a.listener, b.listener) })
}

// fallbacks returns the fallbacks that a listener does not have.
func (v *view) fallbacks(listener string) map[fallback]bool {
	if r, ok := v.fallbackRefusals.Get(v.Snapshot, listener); ok {
		return r.refused
	}
	return nil
}

// hasFallback reports whether requests for a host go on to a wildcard's part. They do if the listener has the fallback for one of the
// namespaces whose routes the host has.
func hasFallback(host []part, wildcard part, refused map[fallback]bool) bool {
	if len(refused) == 0 {
		return true
	}
	to := wildcard.of.route.Namespace
	return slices.ContainsFunc(host, func(p part) bool { return !refused[fallback{p.of.route.Namespace, to}] })
}

// fallbackNote says which fallbacks from or to a route's hosts a listener does not have, "" for none.
func (v *view) fallbackNote(listener, namespace string, hosts []boundHost) string {
	refused := v.fallbacks(listener)
	if len(refused) == 0 {
		return ""
	}
	wild := slices.ContainsFunc(hosts, func(h boundHost) bool { return strings.HasPrefix(h.name, "*") })
	var from, to []string
	for f := range refused {
		if f.wildcards == namespace && wild {
			from = append(from, f.hosts)
		}
		if f.hosts == namespace {
			to = append(to, f.wildcards)
		}
	}
	var notes []string
	if len(from) > 0 {
		notes = append(notes, "requests for narrower hostnames of "+namespacesText(from)+" do not go on to these rules")
	}
	if len(to) > 0 {
		notes = append(notes, "requests that no rule of the namespace matches do not go on to wildcards of "+namespacesText(to))
	}
	if len(notes) == 0 {
		return ""
	}
	return strings.Join(notes, "; ") + fmt.Sprintf(": all such copies of rules for other namespaces may have %d matches together, and %d KiB for regular expressions",
		sharedCopies.matches, sharedCopies.expressions)
}

func namespacesText(names []string) string {
	slices.Sort(names)
	return "namespaces " + firsts(names)
}
