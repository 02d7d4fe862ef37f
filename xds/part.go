package xds

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"slices"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// A route table that several objects share is made of parts: the rules of one route each. Envoy takes or refuses a table as a
// whole, so a part that Envoy refuses is found by trials (trial.go) and left out (exclude.go): the others stay in force and can
// change.

// part is what one route contributes to a route table.
type part struct {
	object model.ObjectVersion
	hash   partHash
	rules  []model.Rule
}

// partHash is of a part's rules, without the generation of their object: a change of a label alters nothing.
type partHash [16]byte

// isPart reports whether a rule is of a route. Others are of the agent's own making, and hold nothing that Envoy could refuse.
func isPart(r *model.Rule) bool {
	return r.Route.Kind != "" && r.Route.Kind != "Service" && !closesNamespace(r)
}

// closesNamespace reports whether a rule ends those of a namespace's own routes: its callers do not see the others.
func closesNamespace(r *model.Rule) bool { return r.CallerNamespace != "" && r.Status == 404 }

// partsOf returns the parts of a table whose route is wanted, by namespace and name of the route. A route has the same rules in
// each virtual host that it is in.
func partsOf(t *model.RouteTable, wanted func(model.ObjectRef) bool) []part {
	var parts []part
	at, seen := map[model.ObjectRef]int{}, map[model.ObjectRef]bool{}
	for _, h := range t.VirtualHosts {
		for _, r := range h.Rules {
			if !isPart(&r) || seen[r.Route] || !wanted(r.Route) {
				continue
			}
			i, ok := at[r.Route]
			if !ok {
				i = len(parts)
				at[r.Route] = i
				parts = append(parts, part{object: model.ObjectVersion{ObjectRef: r.Route, Generation: r.Generation}})
			}
			parts[i].rules = append(parts[i].rules, r)
		}
		for route := range at {
			seen[route] = true
		}
		clear(at)
	}
	for i := range parts {
		parts[i].hash = hashOf(parts[i].rules)
	}
	slices.SortFunc(parts, comparePart)
	return parts
}

func comparePart(a, b part) int {
	x, y := a.object, b.object
	return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Kind, y.Kind))
}

func hashOf(rules []model.Rule) partHash {
	h := sha256.New()
	for _, r := range rules {
		r.Generation = 0
		text, _ := json.Marshal(r) // a Rule holds nothing that JSON cannot say
		h.Write(text)
		h.Write([]byte{'\n'})
	}
	return partHash(h.Sum(nil)[:16])
}

// leaveOut returns a table without the rules of some routes, as if these were not attached. service is the Service whose port
// it is of; the zero name for a Gateway's.
func leaveOut(t *model.RouteTable, service serviceName, excluded func(model.ObjectRef) bool) *model.RouteTable {
	out := *t
	out.VirtualHosts = nil
	for _, h := range t.VirtualHosts {
		h.Rules = slices.DeleteFunc(slices.Clone(h.Rules), func(r model.Rule) bool { return isPart(&r) && excluded(r.Route) })
		if service.name != "" {
			h.Rules = withDefaults(h.Rules, service)
		}
		out.VirtualHosts = append(out.VirtualHosts, h)
	}
	return &out
}

// withDefaults returns the rules of a Service port after some were left out: a namespace without routes of its own has the
// others, and where there is none, the Service is as it is without routes.
func withDefaults(rules []model.Rule, service serviceName) []model.Rule {
	own, anybody := map[string]bool{}, false
	for i := range rules {
		if r := &rules[i]; !closesNamespace(r) {
			own[r.CallerNamespace] = true
			anybody = anybody || r.CallerNamespace == ""
		}
	}
	rules = slices.DeleteFunc(rules, func(r model.Rule) bool { return closesNamespace(&r) && !own[r.CallerNamespace] })
	if !anybody {
		rules = append(rules, toService(service))
	}
	return rules
}

// toService is the rule of a Service port without routes.
func toService(n serviceName) model.Rule {
	return model.Rule{
		Route:    serviceRef(n.namespace, n.name).ObjectRef,
		Backends: []model.Backend{{Namespace: n.namespace, Name: n.name, Port: n.port, Weight: 1}},
	}
}

// trialRoutes is a route table that holds parts alone, for nobody.
func (t *table) trialRoutes(parts []part) *routev3.RouteConfiguration {
	vh := &routev3.VirtualHost{Name: trialName, Domains: []string{"*"}}
	for _, p := range parts {
		for i := range p.rules {
			vh.Routes = append(vh.Routes, t.routes(&p.rules[i])...)
		}
	}
	return &routev3.RouteConfiguration{Name: trialName, ValidateClusters: no(), VirtualHosts: []*routev3.VirtualHost{vh}}
}
