package gateway

import (
	"fmt"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	maxSANs = 5 // the limit of the schema
	maxURI  = 253
)

// backendTLSUnits choose the BackendTLSPolicy of each port of a Service.
var backendTLSUnits = unitKind{
	name: "backend TLS", stage: stageRoutes, compute: backendTLS,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Service] { return o.Services }),
}

// tlsChoice says which policies of a Service are in force.
type tlsChoice struct {
	service string
	// oldest is the key of the oldest policy by the sectionName of its target; "" is that of the Service as a whole.
	oldest map[string]string
}

func newTLSChoices(db *state.DB) *state.Table[*tlsChoice] {
	return state.NewTable(db, "gateway-tls-choices", func(c *tlsChoice) string { return c.service })
}

func backendTLS(v *view, key string) ([]output, bool) {
	svc, ok := v.objs.Services.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	oldest := v.tlsPolicies(svc)
	if len(oldest) == 0 {
		return nil, true
	}
	choice := &tlsChoice{service: key, oldest: map[string]string{}}
	for section, p := range oldest {
		choice.oldest[section] = kube.Key(p)
	}
	outs := []output{out(v.tlsChoices, key, choice)}
	var ignored problems
	for _, port := range servicePorts(svc, &ignored) {
		p := oldest[""]
		if named, ok := oldest[port.Name]; ok {
			p = named // of two the one that names the port
		}
		if p == nil || port.Protocol != model.TCP {
			continue
		}
		row := v.readTLSPolicy(p).row
		row.Namespace, row.Service, row.Port = svc.Namespace, svc.Name, port.Port
		outs = append(outs, out(v.st.BackendTLS, row.Key(), &row))
	}
	return outs, true
}

// tlsPolicies returns the oldest policy by the sectionName of the targets that are a Service.
func (v *view) tlsPolicies(svc *corev1.Service) map[string]*gwv1.BackendTLSPolicy {
	oldest := map[string]*gwv1.BackendTLSPolicy{}
	for p := range v.objs.BackendTLSPolicies.By(v.Snapshot, kube.ByService, kube.Key(svc)) {
		for _, t := range tlsTargets(p) {
			if o := oldest[t.section]; t.service == svc.Name && (o == nil || older(p, o)) {
				oldest[t.section] = p
			}
		}
	}
	return oldest
}

// hasTLSPolicy reports whether a BackendTLSPolicy selects a port of a Service.
func (v *view) hasTLSPolicy(svc *corev1.Service, port string) bool {
	oldest := v.tlsPolicies(svc)
	return oldest[""] != nil || oldest[port] != nil
}

// tlsTarget is a Service that a policy selects, and the name of a port of it or "" for all.
type tlsTarget struct{ service, section string }

// tlsTargets returns those targets of a policy that are of a kind that is known.
func tlsTargets(p *gwv1.BackendTLSPolicy) []tlsTarget {
	var out []tlsTarget
	for _, t := range p.Spec.TargetRefs[:min(len(p.Spec.TargetRefs), kube.MaxPolicyTargets)] {
		if t.Kind == "Service" && t.Group == "" {
			out = append(out, tlsTarget{string(t.Name), orDefault(t.SectionName, "")})
		}
	}
	return out
}

// readPolicy is what a BackendTLSPolicy comes to, for any port.
type readPolicy struct {
	row            model.BackendTLS
	accepted, refs problems
}

// readTLSPolicy reads a policy. One that cannot be followed in full is invalid, and nothing is sent to its targets: who asked
// for TLS must not be served without what they asked for.
func (v *view) readTLSPolicy(p *gwv1.BackendTLSPolicy) *readPolicy {
	const invalid = string(gwv1.PolicyReasonInvalid)
	r := &readPolicy{row: model.BackendTLS{
		Policy: model.ObjectVersion{ObjectRef: tlsPolicyRef(p.Namespace, p.Name), Generation: p.Generation},
	}}
	if m := kube.UnknownFieldsOf(p).Message(); m != "" {
		r.accepted.add(invalid, m)
	}
	val := &p.Spec.Validation
	if len(p.Spec.Options) > 0 {
		r.accepted.add(invalid, "options are not supported")
	}
	if err := validHostname(string(val.Hostname), false); err != "" {
		r.accepted.add(invalid, "validation.hostname: "+err)
	}
	r.row.ServerName = string(val.Hostname)
	r.readSANs(val)
	switch known := orDefault(val.WellKnownCACertificates, ""); {
	case len(val.CACertificateRefs) > 0 && known != "":
		r.accepted.add(invalid, "caCertificateRefs and wellKnownCACertificates cannot be used together")
	case len(val.CACertificateRefs) > 0:
		v.readCAs(r, p)
	case known != string(gwv1.WellKnownCACertificatesSystem):
		r.accepted.add(invalid, fmt.Sprintf("wellKnownCACertificates %q is not supported; use System, or caCertificateRefs", short(known)))
	}
	if !r.accepted.ok() {
		r.row = model.BackendTLS{Policy: r.row.Policy, Invalid: true}
	}
	return r
}

func tlsPolicyRef(namespace, name string) model.ObjectRef {
	return model.ObjectRef{Group: gwv1.GroupName, Kind: "BackendTLSPolicy", Namespace: namespace, Name: name}
}

// readSANs reads the names of which the certificate must have one: the hostname, unless subjectAltNames are given.
func (r *readPolicy) readSANs(val *gwv1.BackendTLSPolicyValidation) {
	const invalid = string(gwv1.PolicyReasonInvalid)
	if len(val.SubjectAltNames) == 0 {
		r.row.SANs = []model.SubjectAltName{{DNS: string(val.Hostname)}}
		return
	}
	if len(val.SubjectAltNames) > maxSANs {
		r.accepted.add(invalid, fmt.Sprintf("more than %d subjectAltNames", maxSANs))
		return
	}
	for i, n := range val.SubjectAltNames {
		at := fmt.Sprintf("validation.subjectAltNames[%d]", i)
		switch n.Type {
		case gwv1.HostnameSubjectAltNameType:
			if err := validHostname(string(n.Hostname), true); err != "" {
				r.accepted.add(invalid, at+": "+err)
			}
			r.row.SANs = append(r.row.SANs, model.SubjectAltName{DNS: string(n.Hostname)})
		case gwv1.URISubjectAltNameType:
			if u, err := url.Parse(string(n.URI)); err != nil || u.Scheme == "" || len(n.URI) > maxURI || strings.ContainsFunc(string(n.URI), notPrintable) {
				r.accepted.add(invalid, fmt.Sprintf("%s: %q is not a URI with a scheme", at, short(string(n.URI))))
			}
			r.row.SANs = append(r.row.SANs, model.SubjectAltName{URI: string(n.URI)})
		default:
			r.accepted.add(invalid, fmt.Sprintf("%s: type %q is neither Hostname nor URI", at, short(string(n.Type))))
		}
	}
}

func notPrintable(c rune) bool { return c <= ' ' || c > '~' }

// readCAs reads the certificates that a policy refers to. Those of references that are not valid are left out.
func (v *view) readCAs(r *readPolicy, p *gwv1.BackendTLSPolicy) {
	valid := false
	for i, ref := range p.Spec.Validation.CACertificateRefs {
		at := fmt.Sprintf("validation.caCertificateRefs[%d]: ", i)
		key, err := localConfigMap(p.Namespace, ref)
		if err != nil {
			r.refs.add(string(gwv1.BackendTLSPolicyReasonInvalidKind), at+err.Error())
			continue
		}
		bundle, err := v.caBundle(key)
		if err == nil {
			bundle, err = joinBundle(r.row.CA, bundle)
		}
		if err != nil {
			r.refs.add(string(gwv1.BackendTLSPolicyReasonInvalidCACertificateRef), at+err.Error())
			continue
		}
		r.row.CA, valid = bundle, true
	}
	if !valid {
		r.accepted.add(string(gwv1.BackendTLSPolicyReasonNoValidCACertificate), "no reference in caCertificateRefs is valid: nothing is sent to the targets")
	}
}
