package gateway

import (
	"cmp"
	"fmt"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// defaultPatterns is Config.RequestExpressions if it is not set. It bounds the regular expressions of a namespace's routes that a
// request is compared with, one after another, twice each: at a Service, at a hostname of a listener, and at all wildcards of one. A
// path of 54 KB took 0.19 ms for each, and nobody else is served by the thread of Envoy meanwhile: with 1,024 of them another
// namespace's p99 was 66 times what it is.
const defaultPatterns = 256

// patternCounts counts the expressions of routes that were added.
type patternCounts struct {
	most int
	by   map[patternScope]int
}

// patternScope is a set of routes of a namespace that a request is compared with together. parent is the key of a Service or of a
// listener. host is a hostname of the listener, or "*" for all of its wildcards.
type patternScope struct{ namespace, parent, host string }

func (s patternScope) String() string { return strings.TrimSpace(s.parent + " " + s.host) }

func newPatternCounts(cfg *Config) *patternCounts {
	return &patternCounts{cmp.Or(cfg.RequestExpressions, defaultPatterns), map[patternScope]int{}}
}

// scopes yields those of a route, each once.
func (d *routeDemand) scopes(yield func(patternScope) bool) {
	if d.patterns == 0 {
		return
	}
	for _, s := range d.services {
		if !yield(patternScope{d.namespace, s, ""}) {
			return
		}
	}
	for _, on := range d.hosts {
		wild := false
		for _, h := range on.hosts {
			if strings.HasPrefix(h, "*") {
				if wild {
					continue
				}
				wild, h = true, "*"
			}
			if !yield(patternScope{d.namespace, on.listener, h}) {
				return
			}
		}
	}
}

func (c *patternCounts) add(d *routeDemand) {
	for s := range d.scopes {
		c.by[s] += d.patterns
	}
}

// refusal says where a route has too many expressions beside those that were added, "" for nowhere.
func (c *patternCounts) refusal(d *routeDemand) string {
	for s := range d.scopes {
		if n := c.by[s]; n+d.patterns > c.most {
			return fmt.Sprintf("older routes of the namespace have %d of the %d regular expressions that a request may be compared with at %s, and this one has %d; "+
				"use fewer, or raise --request-expressions (chart value requestExpressions)", n, c.most, s, d.patterns)
		}
	}
	return ""
}

// servicesOf returns the keys of the Services that a route names as parents, each once.
func (r *route) servicesOf() (keys []string) {
	seen := map[string]bool{}
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		ref := parentObject(p, r.ref.Namespace)
		if key := model.Key(ref.Namespace, ref.Name); ref.Kind == "Service" && ref.Group == "" && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}

func httpPatterns(rules []gwv1.HTTPRouteRule) (n int) {
	for _, r := range rules {
		for _, m := range r.Matches {
			if m.Path != nil && deref(m.Path.Type) == gwv1.PathMatchRegularExpression {
				n++
			}
			for _, h := range m.Headers {
				if deref(h.Type) == gwv1.HeaderMatchRegularExpression {
					n++
				}
			}
			for _, q := range m.QueryParams {
				if queryKB(q) > 0 {
					n++
				}
			}
		}
	}
	return n
}

func grpcPatterns(rules []gwv1.GRPCRouteRule) (n int) {
	for _, r := range rules {
		for _, m := range r.Matches {
			if m.Method != nil {
				if path, f := grpcPath(*m.Method); f == nil && path.Type == model.MatchRegex {
					n++
				}
			}
			for _, h := range m.Headers {
				if deref(h.Type) == gwv1.GRPCHeaderMatchRegularExpression {
					n++
				}
			}
		}
	}
	return n
}
