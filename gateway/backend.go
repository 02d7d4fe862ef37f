package gateway

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// resolver finds what a route refers to and collects what is wrong with it, for the condition ResolvedRefs.
type resolver struct {
	v     *view
	route model.ObjectRef
	// grants is false for Services as parents: their routes may send traffic to any namespace (GEP-1294), for pods
	// can reach every Service anyway. A Gateway would expose it to others.
	grants bool
	bytes  bool // of a route of connections or datagrams: what they speak does not matter
	refs   problems
	// unknown are the fields of the rule that are not known. They may say who is let through, or which requests are meant.
	unknown kube.UnknownFields
	// unknownType is what such a rule has of a type that is not known.
	unknownType *fault
}

// backend resolves a reference to a Service port. It is Invalid where that cannot be.
func (r *resolver) backend(at string, b gwv1.BackendObjectReference) model.Backend {
	m := model.Backend{Namespace: r.route.Namespace, Name: string(b.Name)}
	if b.Namespace != nil {
		m.Namespace = string(*b.Namespace)
	}
	reason, message := r.check(&m, b)
	if reason != "" {
		r.refs.add(reason, at+": "+message)
		// The name of an object that does not exist is unchecked text. It must not become the name of a cluster.
		return model.Backend{Namespace: r.route.Namespace, Name: "invalid", Invalid: true}
	}
	return m
}

func (r *resolver) check(m *model.Backend, b gwv1.BackendObjectReference) (reason, message string) {
	if kind, group := orDefault(b.Kind, "Service"), orDefault(b.Group, ""); kind != "Service" || group != "" {
		return string(gwv1.RouteReasonInvalidKind), fmt.Sprintf("kind %q of group %q is not supported as a backend", short(kind), short(group))
	}
	if r.grants && m.Namespace != r.route.Namespace &&
		!r.v.granted(r.route.Group, r.route.Kind, r.route.Namespace, "Service", m.Namespace, m.Name) {
		return string(gwv1.RouteReasonRefNotPermitted), fmt.Sprintf(
			"Service %q is in another namespace, and no ReferenceGrant there allows %s of namespace %s to use it",
			short(m.Namespace+"/"+m.Name), kindsOf(r.route.Kind), r.route.Namespace)
	}
	const notFound = string(gwv1.RouteReasonBackendNotFound)
	svc, ok := r.v.objs.Services.Get(r.v.Snapshot, model.Key(m.Namespace, m.Name))
	switch {
	case !ok:
		return notFound, fmt.Sprintf("there is no Service %q", short(m.Namespace+"/"+m.Name))
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return notFound, fmt.Sprintf("Service %s is an ExternalName, which has no endpoints", short(kube.Key(svc)))
	case b.Port == nil:
		return notFound, fmt.Sprintf("port of Service %s is missing", short(kube.Key(svc)))
	}
	for _, p := range svc.Spec.Ports {
		if proto, ok := protocol(p.Protocol); !ok || proto != r.transport() || p.Port != *b.Port || !validPort(p.Port) {
			continue
		}
		if !r.bytes && !appProtocolServed(p.AppProtocol) && !r.v.hasTLSPolicy(svc, p.Name) {
			return string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf("port %d of Service %s speaks %s", p.Port, kube.Key(svc), short(*p.AppProtocol))
		}
		m.Port = uint16(p.Port)
		return "", ""
	}
	return notFound, fmt.Sprintf("Service %s has no %s port %d", kube.Key(svc), r.transport(), *b.Port)
}

// kindsOf is the plural of a kind.
func kindsOf(kind string) string {
	if stem, ok := strings.CutSuffix(kind, "y"); ok {
		return stem + "ies"
	}
	return kind + "s"
}

// transport is that of the ports of Services which the route may refer to.
func (r *resolver) transport() model.Protocol {
	if r.route.Kind == "UDPRoute" {
		return model.UDP
	}
	return model.TCP
}

// granted reports whether a ReferenceGrant in the target's namespace lets objects of a kind and a namespace refer to a target
// of the core group.
func (v *view) granted(fromGroup, fromKind, fromNamespace, toKind, toNamespace, toName string) bool {
	for g := range v.objs.ReferenceGrants.By(v.Snapshot, kube.ByNamespace, toNamespace) {
		if len(kube.UnknownFieldsOf(g)) > 0 {
			continue // they may say that less is granted
		}
		from, to := false, false
		for _, f := range g.Spec.From {
			from = from || string(f.Group) == fromGroup && string(f.Kind) == fromKind && string(f.Namespace) == fromNamespace
		}
		for _, t := range g.Spec.To {
			to = to || t.Group == "" && string(t.Kind) == toKind && (t.Name == nil || *t.Name == "" || string(*t.Name) == toName)
		}
		if from && to {
			return true
		}
	}
	return false
}

func orDefault[T ~string](p *T, def string) string {
	if p == nil {
		return def
	}
	return string(*p)
}

// backends fills a rule's backends; prefixOnly as httpMatches returns it. Where none of them can serve, the rule answers by
// itself: 500, or 503 for gRPC, which clients read as UNAVAILABLE.
func (r *resolver) backends(rule *model.Rule, at string, in []gwv1.HTTPBackendRef, prefixOnly, grpc bool) *fault {
	if len(in) > maxBackends {
		return unsupported("%s: more than %d backendRefs", at, maxBackends)
	}
	serving := false
	for i, ref := range in {
		where := fmt.Sprintf("%s.backendRefs[%d]", at, i)
		weight := int32(1)
		if ref.Weight != nil {
			weight = *ref.Weight
		}
		if weight < 0 || weight > maxWeight {
			return unsupported("%s: weight %d is not between 0 and %d", where, weight, maxWeight)
		}
		b := r.backend(where, ref.BackendObjectReference)
		b.Weight = uint32(weight)
		for _, f := range ref.Filters {
			if fl := r.backendFilter(&b, where, f, prefixOnly); fl != nil {
				return fl
			}
		}
		if weight == 0 {
			continue
		}
		rule.Backends = append(rule.Backends, b)
		serving = serving || !b.Invalid
	}
	if !serving && rule.Redirect == nil {
		rule.Backends = nil
		rule.Status = 500
		if grpc {
			rule.Status = 503
		}
	}
	return nil
}
