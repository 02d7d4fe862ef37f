package analyze

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube/lint"
	"github.com/weft-mesh/weft/internal/model"
)

const groupGateway = "gateway.networking.k8s.io"

// Codes of what is served and hardly meant.
const (
	// CodeShadowed: earlier rules take every request of a rule.
	CodeShadowed = "Shadowed"
	// CodeNoClass: the GatewayClass of a Gateway is not there, or not the mesh's.
	CodeNoClass = "NoClass"
)

func (m *Mesh) lint() []Finding {
	return slices.Concat(m.classes(), m.rules(), m.remarks())
}

// remarks are those of package lint.
func (m *Mesh) remarks() []Finding {
	var out []Finding
	for _, r := range lint.Check(lint.Input{Objects: m.objs, State: m.st, Files: m.files, Protocol: gateway.NamedProtocol}) {
		out = append(out, Finding{Code: r.Code, Severity: Warning, File: r.At.File, Line: r.At.Line, Object: r.Object, For: r.For, Message: r.Message})
	}
	return out
}

func (m *Mesh) classes() []Finding {
	snap := m.st.Snapshot()
	var out []Finding
	for g := range m.objs.Gateways.All(snap) {
		name := string(g.Spec.GatewayClassName)
		class, ok := m.objs.GatewayClasses.Get(snap, model.Key("", name))
		ref := model.ObjectRef{Group: groupGateway, Kind: "Gateway", Namespace: g.Namespace, Name: g.Name}
		switch {
		case !ok:
			out = append(out, warn(CodeNoClass, ref, fmt.Sprintf("there is no GatewayClass %q, so the Gateway and its routes were not looked at", name)))
		case string(class.Spec.ControllerName) != gateway.ControllerName:
			out = append(out, warn(CodeNoClass, ref, fmt.Sprintf("GatewayClass %q belongs to %s, which serves the Gateway", name, class.Spec.ControllerName)))
		}
	}
	return out
}

func (m *Mesh) rules() []Finding {
	type place struct {
		route model.ObjectRef
		index int
	}
	broken := map[model.ObjectRef]bool{} // a rule of theirs may answer 500 for a reason that a condition gives
	for s := range m.st.Statuses.All(m.st.Snapshot()) {
		broken[s.Object] = len(s.Failures()) > 0
	}
	shadowed, noTraffic := map[place]string{}, map[place]bool{}
	served := map[place]bool{}
	for t := range m.st.RouteTables.All(m.st.Snapshot()) {
		for _, v := range t.VirtualHosts {
			for i, r := range v.Rules {
				at := place{r.Route, r.Index}
				if r.Route.Name == "" {
					continue // a rule of the translator's own
				}
				if r.Status == http.StatusInternalServerError && !broken[r.Route] {
					noTraffic[at] = true
				}
				by := slices.IndexFunc(v.Rules[:i], func(e model.Rule) bool { return takesAll(e, r) })
				if by < 0 {
					served[at] = true
					continue
				}
				e := v.Rules[by]
				shadowed[at] = fmt.Sprintf("rules[%d]: no request reaches it: rules[%d] of %s takes each of them first", r.Index, e.Index, e.Route)
			}
		}
	}
	maps.DeleteFunc(shadowed, func(p place, _ string) bool { return served[p] })
	var out []Finding
	for p, message := range shadowed {
		out = append(out, warn(CodeShadowed, p.route, message))
	}
	for p := range noTraffic {
		out = append(out, warn(lint.CodeNoTraffic, p.route, fmt.Sprintf("rules[%d]: %s, so its requests are answered 500", p.index, m.noBackend(p.route, p.index))))
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Message, b.Message) })
	return out
}

// noBackend says why a rule has no backend with a weight.
func (m *Mesh) noBackend(of model.ObjectRef, rule int) string {
	snap, backends := m.st.Snapshot(), 0
	switch key := model.Key(of.Namespace, of.Name); of.Kind {
	case "HTTPRoute":
		if r, ok := m.objs.HTTPRoutes.Get(snap, key); ok && rule < len(r.Spec.Rules) {
			backends = len(r.Spec.Rules[rule].BackendRefs)
		}
	case "GRPCRoute":
		if r, ok := m.objs.GRPCRoutes.Get(snap, key); ok && rule < len(r.Spec.Rules) {
			backends = len(r.Spec.Rules[rule].BackendRefs)
		}
	}
	if backends == 0 {
		return "it has no backendRefs"
	}
	return "the weights of all its backends are 0"
}

// takesAll reports whether every request that r matches is matched by an earlier rule. It may say no where a closer look
// would say yes.
func takesAll(earlier, r model.Rule) bool {
	if earlier.CallerNamespace != "" && earlier.CallerNamespace != r.CallerNamespace {
		return false
	}
	e, m := earlier.Match, r.Match
	if e.Method != "" && e.Method != m.Method || e.GRPC && !m.GRPC {
		return false
	}
	return pathTakes(e.Path, m.Path) && subset(e.Headers, m.Headers) && subset(e.Query, m.Query)
}

func pathTakes(e, m model.PathMatch) bool {
	switch {
	case e == m, e.Type == "", e.Type == model.MatchPrefix && e.Value == "/":
		return true
	case e.Type != model.MatchPrefix || m.Type == model.MatchRegex || m.Type == "":
		return false
	}
	prefix := strings.TrimSuffix(e.Value, "/")
	return m.Value == prefix || strings.HasPrefix(m.Value, prefix+"/")
}

func subset(few, many []model.ValueMatch) bool {
	for _, f := range few {
		if !slices.ContainsFunc(many, func(v model.ValueMatch) bool { return f == v }) {
			return false
		}
	}
	return true
}

func warn(code string, o model.ObjectRef, message string) Finding {
	return Finding{Code: code, Severity: Warning, Object: o, Message: message}
}
