package gateway

import (
	"fmt"
	"maps"
	"slices"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
)

// policySize is what policies compare a connection or a request with. Envoy holds it for each pod that is selected, in each filter
// that decides, and compares one after another. terms are the policies, their rules, and the sources, ports, methods and paths of
// these.
type policySize struct{ terms, bytes int }

// maxPolicy bounds the policies of a pod together. A term takes up to 0.9 KiB of Envoy's heap in each of two filters, measured with
// Envoy 1.40, and a policy of one source and one port, which is four terms, 3.2 KiB in both. Those of 110 pods take at most some 650
// MB.
var maxPolicy = policySize{terms: 3072, bytes: 128 << 10}

func (s policySize) plus(o policySize) policySize {
	return policySize{s.terms + o.terms, s.bytes + o.bytes}
}

func (s policySize) within(most policySize) bool {
	return s.terms <= most.terms && s.bytes <= most.bytes
}

// termsOfChain is what a filter chain of the pod's listener counts for. It takes 77 KB.
const termsOfChain = 40

// chainPorts are the ports for which a pod's listener has a filter chain each, whatever the number of policies that name them.
type chainPorts map[int32]bool

// add adds the ports of a policy's rules: those that look at requests, and those that are for clients without an identity too. A
// rule of sources alone is compared at a CONNECT, and needs no filter chain. The size is that of the ports that were not there.
func (c chainPorts) add(spec *weftv1.AuthorizationPolicySpec) (s policySize) {
	for i := range spec.Rules {
		r := &spec.Rules[i]
		if r.NetworkAttributes == nil || len(r.Sources) > 0 && len(r.HTTP) == 0 {
			continue
		}
		for _, p := range r.NetworkAttributes.Ports {
			if !c[p] {
				c[p] = true
				s.terms += termsOfChain
			}
		}
	}
	return s
}

// sizeOfPolicy returns the size of a policy without filter chains.
func sizeOfPolicy(spec *weftv1.AuthorizationPolicySpec) policySize {
	s := policySize{terms: 1}
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
	return s
}

// sizeAlone returns the size of a policy if no other selects a pod.
func sizeAlone(spec *weftv1.AuthorizationPolicySpec) policySize {
	return sizeOfPolicy(spec).plus(chainPorts{}.add(spec))
}

// overPolicies returns those of a pod's policies that the older ones leave no room for. Those that are too large for themselves are
// not among them: their own status says so.
func overPolicies(selecting []*weftv1.AuthorizationPolicy, t *problems) map[*weftv1.AuthorizationPolicy]bool {
	var used policySize
	chains, over := chainPorts{}, map[*weftv1.AuthorizationPolicy]bool{}
	for _, ap := range slices.SortedFunc(slices.Values(selecting), func(a, b *weftv1.AuthorizationPolicy) int { return compareAge(a, b) }) {
		if !sizeAlone(&ap.Spec).within(maxPolicy) {
			continue
		}
		with := maps.Clone(chains)
		size := sizeOfPolicy(&ap.Spec).plus(with.add(&ap.Spec))
		if all := used.plus(size); all.within(maxPolicy) {
			used, chains = all, with
			continue
		}
		over[ap] = true
		t.add("OverBudget", fmt.Sprintf("older AuthorizationPolicies have %d rules, sources, ports, methods and paths of the %d that those of a pod may have, "+
			"or %d of %d bytes, and %s has %d of %d bytes: it allows nothing here",
			used.terms, maxPolicy.terms, used.bytes, maxPolicy.bytes, kube.Key(ap), size.terms, size.bytes))
	}
	return over
}
