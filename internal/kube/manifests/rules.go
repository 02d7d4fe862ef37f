package manifests

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxRouteMatches is how many matches all rules of a route may have together.
const maxRouteMatches = 128

// keepsRules is true for objects that surely keep the rules of their schema, so that the rules need not be run: they
// take longer than all else that is done with a manifest, and most routes use few of the fields that they are about.
// False says nothing. It is checked against the rules themselves, with random routes.
func keepsRules(obj runtime.Object) bool {
	r, ok := obj.(*gwv1.HTTPRoute)
	if !ok || len(r.Spec.ParentRefs) > 1 {
		return false
	}
	matches, named := 0, 0
	for i := range r.Spec.Rules {
		rule := &r.Spec.Rules[i]
		if !ruleKeepsRules(rule) {
			return false
		}
		matches += len(rule.Matches)
		if rule.Name != nil {
			named++
		}
	}
	return matches <= maxRouteMatches && named <= 1
}

func ruleKeepsRules(r *gwv1.HTTPRouteRule) bool {
	//nolint:staticcheck // SessionPersistence is deprecated, and changes what the rule does all the same
	if len(r.Filters) > 0 || r.SessionPersistence != nil || r.Retry != nil || !timeoutsKeepRules(r.Timeouts) {
		return false
	}
	for _, m := range r.Matches {
		if m.Path != nil && !pathKeepsRules(m.Path) {
			return false
		}
	}
	for _, b := range r.BackendRefs {
		if b.Port == nil || b.Group != nil && *b.Group != "" || len(b.Filters) > 0 {
			return false
		}
	}
	return true
}

// pathKeepsRules takes paths of plain characters without empty or dotted elements.
func pathKeepsRules(p *gwv1.HTTPPathMatch) bool {
	if p.Type == nil || p.Value == nil {
		return false
	}
	if *p.Type == gwv1.PathMatchRegularExpression {
		return true
	}
	v := *p.Value
	return strings.HasPrefix(v, "/") && !strings.Contains(v, "//") && !strings.Contains(v, "/.") &&
		!strings.ContainsFunc(v, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/-_.", r)
		})
}

func timeoutsKeepRules(t *gwv1.HTTPRouteTimeouts) bool {
	if t == nil || t.Request == nil || t.BackendRequest == nil {
		return true
	}
	request, err := time.ParseDuration(string(*t.Request))
	if err != nil {
		return false
	}
	backend, err := time.ParseDuration(string(*t.BackendRequest))
	return err == nil && backend <= request
}
