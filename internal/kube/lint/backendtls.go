package lint

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// unusedTLS finds BackendTLSPolicies that apply to no connection: Envoy originates TLS where it makes the connection, and what
// stays in the kernel goes as the client sends it.
func (c *checker) unusedTLS() []Remark {
	var out []Remark
	for p := range c.objs.BackendTLSPolicies.All(c.snap) {
		ref := model.ObjectRef{Group: groupGateway, Kind: "BackendTLSPolicy", Namespace: p.Namespace, Name: p.Name}
		status, ok := c.st.Statuses.Get(c.snap, ref.String())
		if _, read := c.files.Where[ref]; !read || !ok || len(status.Failures()) > 0 || len(status.Parents) > 0 {
			continue
		}
		used := false
		for _, t := range p.Spec.TargetRefs {
			if svc, ok := c.st.Services.Get(c.snap, model.Key(p.Namespace, string(t.Name))); ok {
				used = used || slices.ContainsFunc(svc.Ports, func(port model.ServicePort) bool {
					return port.L7 && (t.SectionName == nil || string(*t.SectionName) == port.Name)
				})
			}
		}
		if !used {
			out = append(out, warn(CodeNotUsed, ref, "no route leads to its targets, and they are not L7: connections to them stay in the kernel, "+
				"and go as the client sends them, without TLS of the mesh's making. A route, or the label weft.io/l7: enabled of the Service, hands them to Envoy"))
		}
	}
	return out
}
