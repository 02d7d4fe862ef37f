package gateway

import (
	"fmt"
	"slices"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
)

// policySize is what policies compare a connection or a request with. Envoy holds it for each pod that is selected, at each place
// where it decides, and compares one after another.
type policySize struct{ terms, bytes int }

// maxPolicy bounds the policies of a pod together. A term takes some 2 KiB of Envoy's heap at
// each of two places, so those of 110 pods take some 400 MB.
var maxPolicy = policySize{terms: 1024, bytes: 128 << 10}

func (s policySize) plus(o policySize) policySize {
	return policySize{s.terms + o.terms, s.bytes + o.bytes}
}

func (s policySize) within(most policySize) bool {
	return s.terms <= most.terms && s.bytes <= most.bytes
}

// termsOfPort is what a port counts for besides each place where a rule names it: it may be a filter chain of the pod's
// listener, which takes 77 KB.
const termsOfPort = 32

// sizeOfPolicy counts the policy itself, and each rule, as one term besides what they compare.
func sizeOfPolicy(spec *weftv1.AuthorizationPolicySpec) policySize {
	s := policySize{terms: 1}
	ports := map[int32]bool{}
	for i := range spec.Rules {
		r := &spec.Rules[i]
		s.terms++
		for _, from := range r.Sources {
			s.terms++
			s.bytes += len(from.SPIFFE) + len(from.Namespace)
			if from.ServiceAccount != nil {
				s.bytes += len(from.ServiceAccount.Namespace) + len(from.ServiceAccount.Name)
			}
		}
		if r.NetworkAttributes != nil {
			s.terms += len(r.NetworkAttributes.Ports)
			for _, p := range r.NetworkAttributes.Ports {
				ports[p] = true
			}
		}
		for _, h := range r.HTTP {
			s.terms += 1 + len(h.Methods) + len(h.Paths)
			for _, m := range h.Methods {
				s.bytes += len(m)
			}
			for _, p := range h.Paths {
				s.bytes += len(p.Value)
			}
		}
	}
	s.terms += termsOfPort * len(ports)
	return s
}

// overPolicies returns those of a pod's policies that the older ones leave no room for. Those that are too large for themselves are
// not among them: their own status says so.
func overPolicies(selecting []*weftv1.AuthorizationPolicy, t *problems) map[*weftv1.AuthorizationPolicy]bool {
	var sum policySize
	for _, ap := range selecting {
		sum = sum.plus(sizeOfPolicy(&ap.Spec))
	}
	if sum.within(maxPolicy) {
		return nil
	}
	var used policySize
	over := map[*weftv1.AuthorizationPolicy]bool{}
	for _, ap := range slices.SortedFunc(slices.Values(selecting), func(a, b *weftv1.AuthorizationPolicy) int { return compareAge(a, b) }) {
		size := sizeOfPolicy(&ap.Spec)
		switch {
		case !size.within(maxPolicy):
		case used.plus(size).within(maxPolicy):
			used = used.plus(size)
		default:
			over[ap] = true
			t.add("OverBudget", fmt.Sprintf("older AuthorizationPolicies have %d sources, ports, methods and paths of the %d that those of a pod may have, "+
				"or %d of %d bytes, and %s has %d of %d bytes: it allows nothing here",
				used.terms, maxPolicy.terms, used.bytes, maxPolicy.bytes, kube.Key(ap), size.terms, size.bytes))
		}
	}
	return over
}
