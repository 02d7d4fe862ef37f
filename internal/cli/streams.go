package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/analyze"
	"github.com/weft-mesh/weft/internal/model"
)

// streamRow is where connections, or datagrams, go that no request is read of.
type streamRow struct{ frontend, hosts, action, from string }

// streamRows lists what TCPRoutes, TLSRoutes and UDPRoutes make of ports of Services and Gateways.
func streamRows(m *analyze.Model) []streamRow {
	var out []streamRow
	routes := map[string][]model.Backend{} // by the key of the StreamRoute
	for _, r := range m.StreamRoutes {
		routes[r.Key()] = r.Backends
	}
	for _, d := range m.Divisions {
		var backends []model.Backend
		for _, s := range d.Shares {
			backends = append(backends, s.Backend)
		}
		frontend := fmt.Sprintf("service/%s/%d", d.Service, d.Port)
		if d.CallerNamespace != "" {
			frontend += ", callers in " + d.CallerNamespace
		}
		for _, n := range d.Names {
			out = append(out, streamRow{frontend, cmp.Or(n.Hostname, "*"), division(routes[model.MeshStreamKey(n.Route)]), n.Route.String()})
		}
		if !d.ByName() {
			out = append(out, streamRow{frontend, "*", division(backends), d.Route.String()})
		}
	}
	for _, g := range m.Gateways {
		for _, p := range g.Ports {
			for _, l := range p.Listeners {
				for _, s := range l.Streams {
					frontend, hosts := fmt.Sprintf("gateway/%s/%s/%d/%s", g.Namespace, g.Name, p.Port, l.Name), s.Hostname
					if hosts == "" {
						hosts = "*"
					}
					out = append(out, streamRow{frontend, hosts, division(routes[model.StreamKey(s.Route)]), s.Route.String()})
				}
			}
		}
	}
	return out
}

// division says what becomes of connections: those of an invalid backend are refused, and all if there is none.
func division(backends []model.Backend) string {
	var total uint64
	for _, b := range backends {
		total += uint64(b.Weight)
	}
	if total == 0 {
		return "refused"
	}
	var out []string
	for _, b := range backends {
		valid := b
		valid.Invalid = false
		text := backend(valid, total)
		if b.Invalid {
			_, share, _ := strings.Cut(text, " ")
			text = strings.TrimSpace("refused " + share)
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

// printTranslated prints what becomes of requests, and of connections if there are routes for them.
func printTranslated(w io.Writer, tables []model.RouteTable, rows []streamRow) error {
	hasRules := slices.ContainsFunc(tables, func(t model.RouteTable) bool {
		return slices.ContainsFunc(t.VirtualHosts, func(v model.VirtualHost) bool { return len(v.Rules) > 0 })
	})
	if hasRules || len(rows) == 0 {
		if err := printRoutes(w, tables, true); err != nil || len(rows) == 0 {
			return err
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "Connections and datagrams")
	return printTable(w, rows, []column[streamRow]{
		{head: "FRONTEND", of: func(r streamRow) string { return r.frontend }},
		{head: "HOSTS", of: func(r streamRow) string { return r.hosts }},
		{head: "ACTION", of: func(r streamRow) string { return r.action }},
		{head: "FROM", of: func(r streamRow) string { return r.from }},
	}, false)
}
