package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/model"
)

type listenerRow struct {
	g model.Gateway
	p model.GatewayPort
	l model.GatewayListener
}

func printGateways(w io.Writer, list []model.Gateway, wide bool) error {
	var rows []listenerRow
	for _, g := range list {
		for _, p := range g.Ports {
			for _, l := range p.Listeners {
				rows = append(rows, listenerRow{g, p, l})
			}
		}
		if len(g.Ports) == 0 {
			rows = append(rows, listenerRow{g: g})
		}
	}
	return printTable(w, rows, []column[listenerRow]{
		{head: "NAMESPACE", of: func(r listenerRow) string { return r.g.Namespace }},
		{head: "NAME", of: func(r listenerRow) string { return r.g.Name }},
		{head: "ADDRESSES", of: func(r listenerRow) string { return join(r.g.Addresses, 0, stringer) }},
		{head: "PORT", of: func(r listenerRow) string {
			if r.p.Port == 0 {
				return ""
			}
			return fmt.Sprintf("%d/%s", r.p.Port, gatewayProtocol(r.p, r.l))
		}},
		{head: "LISTENER", of: func(r listenerRow) string { return r.l.Name }},
		{head: "HOSTNAME", of: func(r listenerRow) string {
			if r.l.Hostname == "" {
				return "*"
			}
			return r.l.Hostname
		}},
		{head: "ROUTES", wide: true, of: func(r listenerRow) string { return r.l.RouteTable }},
		{head: "CERTIFICATES", wide: true, of: func(r listenerRow) string { return join(r.l.Certificates, 0, same) }},
		{head: "IDENTITY", wide: true, of: func(r listenerRow) string { return string(r.g.Identity) }},
	}, wide)
}

// protocols returns those of a port's listeners. A port for connections or datagrams has none while no route attaches.
func protocols(p model.GatewayPort) []string {
	var out []string
	for _, l := range p.Listeners {
		if name := gatewayProtocol(p, l); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if out == nil {
		return []string{"no route"}
	}
	return out
}

func gatewayProtocol(p model.GatewayPort, l model.GatewayListener) string {
	switch {
	case p.UDP:
		return "UDP"
	case p.TLS && len(l.Streams) > 0:
		return "TLS"
	case p.TLS:
		return "HTTPS"
	case len(l.Streams) > 0:
		return "TCP"
	}
	return "HTTP"
}

type policyRow struct {
	p api.WorkloadPolicy
	r *model.PolicyRule // nil where nothing is allowed
}

func printPolicies(w io.Writer, list []api.WorkloadPolicy, wide bool) error {
	var rows []policyRow
	for _, p := range list {
		for i := range p.Rules {
			rows = append(rows, policyRow{p, &p.Rules[i]})
		}
		if len(p.Rules) == 0 {
			rows = append(rows, policyRow{p: p})
		}
	}
	rule := func(otherwise string, f func(*model.PolicyRule) string) func(policyRow) string {
		return func(r policyRow) string {
			if r.r == nil {
				return otherwise
			}
			return f(r.r)
		}
	}
	return printTable(w, rows, []column[policyRow]{
		{head: "WORKLOAD", of: func(r policyRow) string { return r.p.Workload }},
		{head: "POLICIES", of: func(r policyRow) string {
			if wide {
				return join(r.p.Policies, 0, same)
			}
			return join(r.p.Policies, 2, same)
		}},
		{head: "ALLOWED FROM", of: rule("nobody", func(r *model.PolicyRule) string {
			if r.Sources == nil {
				return "anybody"
			}
			return join(r.Sources, 0, policySource)
		})},
		{head: "PORTS", of: rule("", func(r *model.PolicyRule) string {
			if len(r.Ports) == 0 {
				return "all"
			}
			return join(r.Ports, 0, func(p uint16) string { return fmt.Sprint(p) })
		})},
		{head: "REQUESTS", of: rule("", func(r *model.PolicyRule) string {
			if len(r.HTTP) == 0 {
				return "all"
			}
			var out []string
			for _, h := range r.HTTP {
				out = append(out, httpRule(h))
			}
			return strings.Join(out, "; ")
		})},
		{head: "LOCAL", wide: true, of: func(r policyRow) string { return yesNo(r.p.Local) }},
	}, wide)
}

func policySource(s model.PolicySource) string {
	if s.Identity != "" {
		return string(s.Identity)
	}
	return "namespace " + s.Namespace
}

func httpRule(h model.HTTPRule) string {
	methods, paths := "any method", "any path"
	if len(h.Methods) > 0 {
		methods = join(h.Methods, 0, same)
	}
	if len(h.Paths) > 0 {
		paths = join(h.Paths, 0, pathMatch)
	}
	return methods + " " + paths
}

// conditionRow is one condition of an object, of one of its listeners, or of its relation to a parent.
type conditionRow struct {
	object model.ObjectRef
	of     string
	c      model.Condition
}

func printStatuses(w io.Writer, list []model.Status, wide bool) error {
	var rows []conditionRow
	add := func(s model.Status, of string, conditions []model.Condition) {
		for _, c := range conditions {
			rows = append(rows, conditionRow{s.Object, of, c})
		}
	}
	for _, s := range list {
		add(s, "", s.Conditions)
		for _, l := range s.Listeners {
			add(s, fmt.Sprintf("listener %s (%d routes)", l.Name, l.AttachedRoutes), l.Conditions)
		}
		for _, p := range s.Parents {
			add(s, p.String(), p.Conditions)
		}
	}
	return printTable(w, rows, []column[conditionRow]{
		{head: "OBJECT", of: func(r conditionRow) string { return r.object.String() }},
		{head: "FOR", of: func(r conditionRow) string {
			if r.of == "" {
				return "itself"
			}
			return r.of
		}},
		{head: "CONDITION", of: func(r conditionRow) string { return r.c.Type }},
		{head: "STATUS", of: func(r conditionRow) string { return trueOrFalse(r.c.Status) }},
		{head: "REASON", of: func(r conditionRow) string { return r.c.Reason }},
		{head: "MESSAGE", of: func(r conditionRow) string { return r.c.Message }},
	}, wide)
}

// trueOrFalse is a condition's status as the Kubernetes API writes it.
func trueOrFalse(status bool) string {
	if status {
		return "True"
	}
	return "False"
}
