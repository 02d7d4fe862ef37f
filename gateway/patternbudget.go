package gateway

import (
	"fmt"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// maxPatterns bounds the regular expressions of a namespace's routes that a request is compared with, one after another, twice each:
// at a Service, at a hostname of a listener, and at all wildcards of one. A path of 54 KB took 0.19 ms for each, and nobody else
// is served by the thread of Envoy meanwhile: with 1,024 of them another namespace's p99 was 66 times what it is.
const maxPatterns = 256

// patternCounts counts expressions by place and namespace.
type patternCounts map[patternPlace]int

type patternPlace struct{ namespace, place, host string }

func (c patternCounts) each(d *routeDemand, yield func(patternPlace)) {
	if d.patterns == 0 {
		return
	}
	for _, s := range d.services {
		yield(patternPlace{d.namespace, s, ""})
	}
	for _, on := range d.hosts {
		wild := false
		for _, h := range on.hosts {
			switch {
			case !strings.HasPrefix(h, "*"):
				yield(patternPlace{d.namespace, on.listener, h})
			case !wild:
				wild = true
				yield(patternPlace{d.namespace, on.listener, "*"})
			}
		}
	}
}

func (c patternCounts) add(d *routeDemand) { c.each(d, func(p patternPlace) { c[p] += d.patterns }) }

func (c patternCounts) fits(d *routeDemand) bool { return c.refusal(d) == "" }

// refusal says where a route has too many expressions beside those that were added, "" for nowhere.
func (c patternCounts) refusal(d *routeDemand) (why string) {
	c.each(d, func(p patternPlace) {
		if why == "" && c[p]+d.patterns > maxPatterns {
			why = strings.TrimSpace(fmt.Sprintf("older routes of the namespace have %d of the %d regular expressions that a request may be compared with at %s %s", c[p], maxPatterns, p.place, p.host)) +
				fmt.Sprintf(", and this one has %d", d.patterns)
		}
	})
	return why
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
