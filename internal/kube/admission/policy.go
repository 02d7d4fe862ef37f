package admission

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// maxPolicyPath is the longest path of a policy, as of a route.
const maxPolicyPath = 1024

func checkPolicy(p *weftv1.AuthorizationPolicy, spec *field.Path) (errs field.ErrorList) {
	if p.Spec.Action != weftv1.ActionAllow {
		errs = append(errs, field.NotSupported(spec.Child("action"), p.Spec.Action, []weftv1.PolicyAction{weftv1.ActionAllow}))
	}
	for i, t := range p.Spec.TargetRefs {
		errs = append(errs, checkTarget(t, spec.Child("targetRefs").Index(i))...)
	}
	for i, r := range p.Spec.Rules {
		at := spec.Child("rules").Index(i)
		for j, s := range r.Sources {
			errs = append(errs, checkSource(s, at.Child("sources").Index(j))...)
		}
		if n := r.NetworkAttributes; n != nil {
			for j, port := range n.Ports {
				errs = append(errs, checkPort(port, at.Child("networkAttributes", "ports").Index(j))...)
			}
		}
		for j, h := range r.HTTP {
			errs = append(errs, checkHTTP(h, at.Child("http").Index(j))...)
		}
	}
	return errs
}

func checkTarget(t weftv1.PolicyTarget, at *field.Path) (errs field.ErrorList) {
	switch {
	case t.Group != "":
		errs = append(errs, field.NotSupported(at.Child("group"), t.Group, []string{""}))
	case t.Kind == "Pod":
		if t.Name != "" {
			errs = append(errs, field.Forbidden(at.Child("name"), "pods are selected by labels"))
		}
		if t.Selector == nil {
			errs = append(errs, field.Required(at.Child("selector"), "pods are selected by labels"))
			break
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(t.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	case t.Kind == "Service":
		if t.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), "names the Service"))
		}
		if t.Selector != nil {
			errs = append(errs, field.Forbidden(at.Child("selector"), "a Service is named"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("kind"), t.Kind, []string{"Pod", "Service"}))
	}
	return errs
}

func checkSource(s weftv1.AuthorizationSource, at *field.Path) (errs field.ErrorList) {
	set := map[weftv1.SourceType]bool{
		weftv1.SourceSPIFFE: s.SPIFFE != "", weftv1.SourceServiceAccount: s.ServiceAccount != nil, weftv1.SourceNamespace: s.Namespace != "",
	}
	types := []weftv1.SourceType{weftv1.SourceSPIFFE, weftv1.SourceServiceAccount, weftv1.SourceNamespace}
	if !slices.Contains(types, s.Type) {
		return field.ErrorList{field.NotSupported(at.Child("type"), s.Type, types)}
	}
	for t, is := range set {
		name := map[weftv1.SourceType]string{
			weftv1.SourceSPIFFE: "spiffe", weftv1.SourceServiceAccount: "serviceAccount", weftv1.SourceNamespace: "namespace",
		}[t]
		if t == s.Type && !is {
			errs = append(errs, field.Required(at.Child(name), fmt.Sprintf("type %s asks for it", t)))
		}
		if t != s.Type && is {
			errs = append(errs, field.Forbidden(at.Child(name), fmt.Sprintf("type is %s", s.Type)))
		}
	}
	if s.SPIFFE != "" {
		if id, err := spiffeid.FromString(s.SPIFFE); err != nil || id.Path() == "" {
			errs = append(errs, field.Invalid(at.Child("spiffe"), s.SPIFFE, "must be a SPIFFE ID, spiffe://TRUST-DOMAIN/PATH"))
		}
	}
	if a := s.ServiceAccount; a != nil && a.Name == "" {
		errs = append(errs, field.Required(at.Child("serviceAccount", "name"), "names the service account"))
	}
	slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func checkHTTP(h weftv1.HTTPAttributes, at *field.Path) (errs field.ErrorList) {
	for i, m := range h.Methods {
		if m == "" || strings.ContainsFunc(m, func(r rune) bool { return r < 'A' || r > 'Z' }) {
			errs = append(errs, field.Invalid(at.Child("methods").Index(i), m, "must be a method in upper case, as GET"))
		}
	}
	for i, p := range h.Paths {
		path := at.Child("paths").Index(i)
		if types := []weftv1.PathMatchType{weftv1.PathExact, weftv1.PathPrefix}; p.Type != "" && !slices.Contains(types, p.Type) {
			errs = append(errs, field.NotSupported(path.Child("type"), p.Type, types))
		}
		switch v := path.Child("value"); {
		case !strings.HasPrefix(p.Value, "/"):
			errs = append(errs, field.Invalid(v, p.Value, "must begin with /"))
		case len(p.Value) > maxPolicyPath:
			errs = append(errs, field.TooLong(v, p.Value, maxPolicyPath))
		case strings.ContainsFunc(p.Value, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' || r == '?' }):
			errs = append(errs, field.Invalid(v, p.Value, "must hold no blanks, control characters, # or ?"))
		}
	}
	return errs
}

func checkPool(p *weftv1.AddressPool, spec *field.Path) (errs field.ErrorList) {
	if len(p.Spec.Addresses) == 0 {
		errs = append(errs, field.Required(spec.Child("addresses"), "a pool has addresses"))
	}
	for i, text := range p.Spec.Addresses {
		at := spec.Child("addresses").Index(i)
		if from, to, ok := strings.Cut(text, "-"); ok {
			a, errA := netip.ParseAddr(strings.TrimSpace(from))
			b, errB := netip.ParseAddr(strings.TrimSpace(to))
			if errA != nil || errB != nil || a.Is4() != b.Is4() || b.Less(a) {
				errs = append(errs, field.Invalid(at, text, "must be a range FIRST-LAST of addresses of one family"))
			}
			continue
		}
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			continue
		}
		if _, err := netip.ParsePrefix(text); err != nil {
			errs = append(errs, field.Invalid(at, text, "must be an address, a CIDR, as 192.0.2.0/28, or a range FIRST-LAST"))
		}
	}
	return errs
}
