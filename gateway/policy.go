package gateway

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var policyUnits = unitKind{
	name: "AuthorizationPolicy", stage: stageModel, compute: policyStatus,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*weftv1.AuthorizationPolicy] { return o.AuthorizationPolicies }),
}

// policyFor joins the policies that select a pod; nil when none does. A policy that selects the pod restricts it even
// if none of its rules is valid, or if there is no room for them: then it allows nothing.
func (v *view) policyFor(pod *corev1.Pod, t *problems) *model.Policy {
	var selecting []*weftv1.AuthorizationPolicy
	for ap := range v.objs.AuthorizationPolicies.By(v.Snapshot, kube.ByNamespace, pod.Namespace) {
		if v.selects(ap, pod) {
			selecting = append(selecting, ap)
		}
	}
	if len(selecting) == 0 {
		return nil
	}
	p := &model.Policy{}
	counted := false
	over := overPolicies(selecting, t)
	for _, ap := range selecting {
		p.Names, p.Generations = append(p.Names, kube.Key(ap)), append(p.Generations, ap.Generation)
		counted = counted || ap.Generation != 0
		if !over[ap] {
			rules, _ := v.policyRules(ap)
			p.Rules = append(p.Rules, rules...)
		}
	}
	if !counted {
		p.Generations = nil
	}
	return p
}

// policyRules returns a policy's valid rules and what is wrong with the others.
func (v *view) policyRules(ap *weftv1.AuthorizationPolicy) ([]model.PolicyRule, *problems) {
	var t problems
	if ap.Spec.Action != weftv1.ActionAllow {
		t.add("Invalid", fmt.Sprintf("action %q is not ALLOW", short(string(ap.Spec.Action))))
		return nil, &t
	}
	if size := sizeAlone(&ap.Spec); !size.within(maxPolicy) {
		t.add("Invalid", fmt.Sprintf("it has %d rules, sources, ports, methods and paths of %d bytes together; a pod's policies may have %d of %d bytes",
			size.terms, size.bytes, maxPolicy.terms, maxPolicy.bytes))
		return nil, &t
	}
	var rules []model.PolicyRule
	for i, r := range ap.Spec.Rules {
		if rule, ok := v.policyRule(ap.Namespace, i, r, &t); ok {
			rule.Of = fmt.Sprintf("AuthorizationPolicy/%s/%s/%d", ap.Namespace, ap.Name, i)
			rules = append(rules, rule)
		}
	}
	return rules, &t
}

// policyRule reads a rule. A part that names something but holds nothing valid makes the whole rule invalid: an empty
// list would match everything.
func (v *view) policyRule(namespace string, i int, r weftv1.AuthorizationRule, t *problems) (model.PolicyRule, bool) {
	var rule model.PolicyRule
	at := func(format string, args ...any) {
		t.add("Invalid", fmt.Sprintf("rules[%d]: ", i)+fmt.Sprintf(format, args...))
	}
	for j, s := range r.Sources {
		source, err := v.policySource(namespace, s)
		if err != "" {
			at("sources[%d]: %s", j, err)
			continue
		}
		rule.Sources = append(rule.Sources, source)
	}
	if len(r.Sources) > 0 && len(rule.Sources) == 0 {
		return rule, false
	}
	if r.NetworkAttributes != nil {
		for _, p := range r.NetworkAttributes.Ports {
			if !validPort(p) {
				at("port %d is not between 1 and 65535", p)
				continue
			}
			rule.Ports = append(rule.Ports, uint16(p))
		}
		if len(r.NetworkAttributes.Ports) > 0 && len(rule.Ports) == 0 {
			return rule, false
		}
	}
	for j, h := range r.HTTP {
		attrs, err := httpAttributes(h)
		if err != "" {
			at("http[%d]: %s", j, err)
			continue
		}
		rule.HTTP = append(rule.HTTP, attrs)
	}
	return rule, len(r.HTTP) == 0 || len(rule.HTTP) > 0
}

func (v *view) policySource(namespace string, s weftv1.AuthorizationSource) (model.PolicySource, string) {
	var none model.PolicySource
	set := 0
	for _, is := range []bool{s.SPIFFE != "", s.ServiceAccount != nil, s.Namespace != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		return none, "exactly one of spiffe, serviceAccount and namespace is to be set"
	}
	switch {
	case s.Type == weftv1.SourceSPIFFE && s.SPIFFE != "":
		if err := validSPIFFE(s.SPIFFE, v.cfg.TrustDomain); err != "" {
			return none, err
		}
		return model.PolicySource{Identity: model.Identity(s.SPIFFE)}, ""
	case s.Type == weftv1.SourceServiceAccount && s.ServiceAccount != nil:
		sa := *s.ServiceAccount
		if sa.Namespace == "" {
			sa.Namespace = namespace
		}
		if len(validation.ValidateServiceAccountName(sa.Name, false)) > 0 || len(validation.ValidateNamespaceName(sa.Namespace, false)) > 0 {
			return none, fmt.Sprintf("%q/%q cannot be a service account", short(sa.Namespace), short(sa.Name))
		}
		return model.PolicySource{Identity: model.NewIdentity(v.cfg.TrustDomain, sa.Namespace, sa.Name)}, ""
	case s.Type == weftv1.SourceNamespace && s.Namespace != "":
		if len(validation.ValidateNamespaceName(s.Namespace, false)) > 0 {
			return none, fmt.Sprintf("%q cannot be a namespace", short(s.Namespace))
		}
		return model.PolicySource{Namespace: s.Namespace}, ""
	}
	return none, fmt.Sprintf("type %q does not fit the field that is set", short(string(s.Type)))
}

// maxSPIFFE is the longest SPIFFE ID in bytes (SPIFFE-ID.md, 2.3).
const maxSPIFFE = 2048

// validSPIFFE says why a SPIFFE ID cannot be a source; "" is good. Only an ID of the mesh's own trust domain can be
// proven, and it must be written as it is in a certificate, for the two are compared byte by byte.
func validSPIFFE(id, trustDomain string) string {
	parsed, err := spiffeid.FromString(id)
	switch {
	case len(id) > maxSPIFFE:
		return fmt.Sprintf("%q is not a SPIFFE ID: it is longer than %d bytes", short(id), maxSPIFFE)
	case err != nil:
		return fmt.Sprintf("%q is not a SPIFFE ID: %v", short(id), err)
	case parsed.Path() == "":
		return fmt.Sprintf("%q is the ID of a trust domain, not of a workload", short(id))
	case parsed.TrustDomain().Name() != trustDomain:
		return fmt.Sprintf("%q is of another trust domain; this mesh is %s", short(id), trustDomain)
	case parsed.String() != id:
		return fmt.Sprintf("%q is not in its normal form %s", short(id), parsed)
	}
	return ""
}

func httpAttributes(h weftv1.HTTPAttributes) (model.HTTPRule, string) {
	var rule model.HTTPRule
	for _, m := range h.Methods {
		if !validToken(m) {
			return rule, fmt.Sprintf("%q is not an HTTP method", short(m))
		}
		rule.Methods = append(rule.Methods, m)
	}
	for _, p := range h.Paths {
		match := model.PathMatch{Type: model.MatchExact, Value: p.Value}
		switch p.Type {
		case weftv1.PathExact, "":
		case weftv1.PathPrefix:
			match = model.PathMatch{Type: model.MatchPrefix, Value: trimPrefixPath(p.Value)}
		default:
			return rule, fmt.Sprintf("path type %q is neither Exact nor PathPrefix", short(string(p.Type)))
		}
		if err := validPath(p.Value); err != "" {
			return rule, err
		}
		rule.Paths = append(rule.Paths, match)
	}
	return rule, ""
}

// policyStatus is the status of an AuthorizationPolicy: Accepted as GEP-713 has it for policies.
func policyStatus(v *view, key string) ([]output, bool) {
	ap, ok := v.objs.AuthorizationPolicies.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	ref := model.ObjectRef{Group: weftv1.Group, Kind: "AuthorizationPolicy", Namespace: ap.Namespace, Name: ap.Name}
	rules, t := v.policyRules(ap)
	s := &model.Status{Object: ref, Generation: ap.Generation}
	var accepted problems
	notes := v.checkTargets(ap, &accepted)
	if note, ok := ap.Annotations[kube.AnnotationStandIn]; ok {
		accepted.add("Invalid", "its document cannot be read: "+note)
	}
	if m := v.rejected(ref, ap.Generation); m != "" {
		accepted.add("Invalid", m)
	}
	switch {
	case t.ok():
	case len(rules) == 0:
		accepted.add(t.reason, strings.Join(t.messages, "; ")+"; the policy allows nothing")
	default:
		s.Conditions = append(s.Conditions, model.Condition{
			Type: model.ConditionPartiallyInvalid, Status: true, Reason: t.reason, Message: strings.Join(t.messages, "; "),
		})
	}
	condition := accepted.condition(model.ConditionAccepted, "Accepted")
	if condition.Status {
		condition.Message = strings.Join(notes, "; ")
	}
	s.Conditions = slices.Insert(s.Conditions, 0, condition)
	return []output{v.status(s)}, true
}
