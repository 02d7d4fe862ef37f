package lint

import (
	"fmt"
	"iter"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// route is what routes of all kinds have in common.
type route struct {
	ref     model.ObjectRef
	parents []gwv1.ParentReference
	hosts   []gwv1.Hostname // of kinds that look at requests
	weights [][]int32       // of each rule's backends, of kinds that carry bytes or datagrams
}

// routes lists the routes that were read.
func (c *checker) routes() iter.Seq[route] {
	ref := func(kind, namespace, name string) model.ObjectRef {
		return model.ObjectRef{Group: groupGateway, Kind: kind, Namespace: namespace, Name: name}
	}
	return func(yield func(route) bool) {
		for r := range c.objs.HTTPRoutes.All(c.snap) {
			if !yield(route{ref("HTTPRoute", r.Namespace, r.Name), r.Spec.ParentRefs, r.Spec.Hostnames, nil}) {
				return
			}
		}
		for r := range c.objs.GRPCRoutes.All(c.snap) {
			if !yield(route{ref("GRPCRoute", r.Namespace, r.Name), r.Spec.ParentRefs, r.Spec.Hostnames, nil}) {
				return
			}
		}
		for r := range c.objs.TLSRoutes.All(c.snap) {
			weights := weightsOf(r.Spec.Rules, func(r gwv1.TLSRouteRule) []gwv1.BackendRef { return r.BackendRefs })
			if !yield(route{ref("TLSRoute", r.Namespace, r.Name), r.Spec.ParentRefs, nil, weights}) {
				return
			}
		}
		for r := range c.objs.TCPRoutes.All(c.snap) {
			weights := weightsOf(r.Spec.Rules, func(r gwv1.TCPRouteRule) []gwv1.BackendRef { return r.BackendRefs })
			if !yield(route{ref("TCPRoute", r.Namespace, r.Name), r.Spec.ParentRefs, nil, weights}) {
				return
			}
		}
		for r := range c.objs.UDPRoutes.All(c.snap) {
			weights := weightsOf(r.Spec.Rules, func(r gwv1.UDPRouteRule) []gwv1.BackendRef { return r.BackendRefs })
			if !yield(route{ref("UDPRoute", r.Namespace, r.Name), r.Spec.ParentRefs, nil, weights}) {
				return
			}
		}
	}
}

func weightsOf[R any](rules []R, backends func(R) []gwv1.BackendRef) [][]int32 {
	out := make([][]int32, 0, len(rules))
	for _, r := range rules {
		var weights []int32
		for _, b := range backends(r) {
			if b.Weight == nil {
				weights = append(weights, 1)
			} else {
				weights = append(weights, *b.Weight)
			}
		}
		out = append(out, weights)
	}
	return out
}

// attachment finds routes that are in force nowhere, or not as they are written.
func (c *checker) attachment() []Remark {
	var out []Remark
	for r := range c.routes() {
		if _, read := c.files.Where[r.ref]; !read {
			continue
		}
		if len(r.parents) == 0 {
			out = append(out, warn(CodeNoParent, r.ref, "spec.parentRefs is empty, so the route applies to nothing; name a Service (group: \"\", kind: Service) or a Gateway"))
		}
		for i, weights := range r.weights {
			if !slices.ContainsFunc(weights, func(w int32) bool { return w > 0 }) {
				out = append(out, warn(CodeNoTraffic, r.ref, fmt.Sprintf("rules[%d]: the weights of all its backends are 0, so nothing is let through", i)))
			}
		}
		for _, p := range r.parents {
			if p.Kind == nil || *p.Kind != "Service" || p.Group == nil || *p.Group != "" {
				continue
			}
			out = append(out, c.atService(r, p)...)
		}
	}
	return out
}

// atService finds what a parentRef to a Service most likely does not mean.
func (c *checker) atService(r route, p gwv1.ParentReference) []Remark {
	namespace := r.ref.Namespace
	if p.Namespace != nil {
		namespace = string(*p.Namespace)
	}
	svc, ok := c.st.Services.Get(c.snap, model.Key(namespace, string(p.Name)))
	if !ok {
		return nil // a condition says so
	}
	var out []Remark
	add := func(code, message string) {
		f := warn(code, r.ref, message)
		f.For = "Service/" + svc.Key()
		out = append(out, f)
	}
	if len(r.hosts) > 0 {
		add(CodeHostnamesIgnored, "spec.hostnames is not looked at where the parent is a Service (GEP-1426): the rules apply whatever host a request names")
	}
	if r.ref.Kind != "HTTPRoute" && r.ref.Kind != "GRPCRoute" {
		return out
	}
	for _, port := range svc.Ports {
		named := p.Port != nil && *p.Port == int32(port.Port) || p.SectionName != nil && string(*p.SectionName) == port.Name
		if protocol := c.protocol(port); named && port.L7 && protocol != "" {
			add(CodeNotHTTP, fmt.Sprintf("port %d is named %q, as if it spoke %s; the route takes it as HTTP, and clients that speak something else hang. "+
				"If it speaks HTTP, give it appProtocol: http", port.Port, port.Name, protocol))
		}
	}
	return out
}
