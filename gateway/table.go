package gateway

import (
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// candidate is a rule with all that its order depends on.
type candidate struct {
	rankedRule
	of   *attachment
	host string // of the route, for Gateways
}

// order sorts rules as the Gateway API wants it: hostname, match, age of the route, its name, place in the route.
func order(rules []candidate) {
	slices.SortStableFunc(rules, func(a, b candidate) int {
		if c := compareHosts(a.host, b.host); c != 0 {
			return c
		}
		if c := a.rank.compare(b.rank); c != 0 {
			return c
		}
		if a.of == b.of {
			return 0 // the rules of a route are in order already
		}
		return a.of.compareAge(b.of)
	})
}

// compareHosts puts exact names before wildcards, and the longer wildcard first.
func compareHosts(a, b string) int {
	aw, bw := strings.HasPrefix(a, "*"), strings.HasPrefix(b, "*")
	if aw != bw {
		if aw {
			return 1
		}
		return -1
	}
	if c := len(b) - len(a); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// serviceRoutes is the route table of a Service port; routed is false if no route attaches to it. declared reports whether one
// of the routes names the port, or the port says that it speaks HTTP.
type serviceRoutes struct {
	*model.RouteTable
	routed, declared bool
}

// serviceTable joins the routes of a Service port. Callers of a namespace with consumer routes see these alone; others
// see the producer routes, or where there are none, the Service itself.
func (v *view) serviceTable(s *model.Service, port uint16) serviceRoutes {
	t := serviceRoutes{RouteTable: &model.RouteTable{Name: model.ServiceTable(s.Namespace, s.Name, port)}}
	byCaller := map[string][]candidate{}
	for a := range v.attachments.By(v.Snapshot, byTable, t.Name) {
		for _, binding := range a.bindings {
			if binding.table != t.Name {
				continue
			}
			t.routed, t.declared = true, t.declared || !binding.detects
			for _, r := range binding.rules {
				byCaller[binding.caller] = append(byCaller[binding.caller], candidate{rankedRule: r, of: a})
			}
		}
	}
	var callers []string
	for c := range byCaller {
		if c != "" {
			callers = append(callers, c)
		}
	}
	slices.Sort(callers)
	var rules []model.Rule
	for _, c := range append(callers, "") {
		order(byCaller[c])
		for _, p := range byCaller[c] {
			p.CallerNamespace = c
			rules = append(rules, p.Rule)
		}
		if c != "" {
			rules = append(rules, model.Rule{Route: byCaller[c][0].Route, Generation: byCaller[c][0].Generation, CallerNamespace: c, Status: 404})
		}
	}
	if len(byCaller[""]) == 0 {
		rules = append(rules, model.Rule{
			Route:    model.ObjectRef{Kind: "Service", Namespace: s.Namespace, Name: s.Name},
			Backends: []model.Backend{{Namespace: s.Namespace, Name: s.Name, Port: port, Weight: 1}},
		})
	}
	t.VirtualHosts = []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}
	return t
}

// part is what one attachment contributes to a host of a Gateway's table.
type part struct {
	of      *attachment
	binding *binding
	host    string // the route's, which may be wider than the virtual host's
}

// cachedHost is a virtual host of a large table. memo keeps them so that a change makes again only those that it
// touches. It only saves work: what is in it follows from parts alone.
type cachedHost struct {
	parts []part
	vhost model.VirtualHost
}

// gatewayTable joins the routes of the listeners that share a table. all are the Gateway's accepted listeners of the
// port: a host that a more specific one of them has is not served by the others. attached counts routes by listener.
func (v *view) gatewayTable(table string, listeners, all []*listener) (t *model.RouteTable, attached map[string]int) {
	attached = map[string]int{}
	byKey, names := map[string]*listener{}, hostnamesOf(all)
	hosts := map[string][]part{}
	wild := map[string]map[string]bool{} // wildcard hosts by listener
	for _, l := range listeners {
		byKey[l.key] = l
		hosts[l.pattern()] = nil // so that what no route matches gets its 404 here and not from a wider listener
	}
	for a := range v.attachments.By(v.Snapshot, byTable, table) {
		for i := range a.bindings {
			s := &a.bindings[i]
			l := byKey[s.listener]
			if s.table != table || l == nil {
				continue
			}
			if !a.closed {
				attached[l.key]++
			}
			for _, h := range s.hosts {
				if isolated(h.name, l, names) {
					continue
				}
				hosts[h.name] = append(hosts[h.name], part{a, s, h.of})
				if !strings.HasPrefix(h.name, "*") {
					continue
				}
				if wild[l.key] == nil {
					wild[l.key] = map[string]bool{}
				}
				wild[l.key][h.name] = true
			}
		}
	}
	refused := map[string]map[fallback]bool{}
	for _, l := range listeners {
		refused[l.key] = v.fallbacks(l.key)
	}
	widened := slices.DeleteFunc(slices.Clone(listeners), func(l *listener) bool { return len(wild[l.key]) == 0 })
	t = &model.RouteTable{Name: table}
	old, cache := v.memo.hostsOf(table), make(map[string]cachedHost, len(hosts))
	for _, h := range slices.SortedFunc(maps.Keys(hosts), compareHosts) {
		parts := withWider(h, hosts, wild, widened, names, refused)
		c, ok := old[h]
		if !ok || !slices.Equal(c.parts, parts) {
			c = cachedHost{parts, virtualHost(h, parts)}
		}
		cache[h] = c
		t.VirtualHosts = append(t.VirtualHosts, c.vhost)
	}
	v.memo.setHosts(table, cache)
	if others := misdirected(listeners, all); len(others) > 0 {
		t.VirtualHosts = append(t.VirtualHosts, model.VirtualHost{Hosts: others, Rules: []model.Rule{{Status: 421}}})
	}
	return t, attached
}

// misdirected returns the hosts of an HTTPS port's other listeners. A client chose a listener by the name in its TLS
// handshake; a request for a host that belongs to another one came on the wrong connection (RFC 9110, 15.5.20). Of two
// that match a host the more specific counts, as everywhere, so none of these hosts hides one of the listener's own. Where
// there are many, those that the listener's own name does not cover are one entry.
func misdirected(listeners, all []*listener) []string {
	if !listeners[0].https() {
		return nil
	}
	of := listeners[0] // such a table has one
	many := len(all) > maxMisdirected && of.hostname != ""
	var out []string
	for _, o := range all {
		if o != of && (!many || covers(of.hostname, o.pattern())) {
			out = append(out, o.pattern())
		}
	}
	if many && !slices.Contains(out, "*") {
		out = append(out, "*")
	}
	return out
}

// maxMisdirected bounds the listeners of a port that are listed in the route tables of each other, which takes the square of
// their number.
const maxMisdirected = maxListeners

// withWider adds to a host's parts those of the wildcard hosts of its listener that cover it. listeners are those with such
// hosts, names the hostnames of all of the port, refused by listener the fallbacks that there is no room for.
func withWider(h string, hosts map[string][]part, wild map[string]map[string]bool, listeners []*listener, names map[string]bool, refused map[string]map[fallback]bool) []part {
	parts := slices.Clone(hosts[h])
	wider := widerHosts(h)
	for _, l := range listeners {
		if !covers(l.pattern(), h) || isolated(h, l, names) {
			continue
		}
		for _, w := range wider {
			if !wild[l.key][w] {
				continue
			}
			for _, p := range hosts[w] {
				if p.binding.listener == l.key && hasFallback(hosts[h], p, refused[l.key]) {
					parts = append(parts, p)
				}
			}
		}
	}
	return parts
}

// widerHosts lists the wildcards that cover a host, without the host itself, the longest first.
func widerHosts(h string) []string {
	var out []string
	for rest := h; ; {
		_, after, more := strings.Cut(rest, ".")
		if !more {
			break
		}
		if rest = after; "*."+rest != h {
			out = append(out, "*."+rest)
		}
	}
	if h != "*" {
		out = append(out, "*")
	}
	return out
}

// hostnamesOf returns the hostnames of listeners.
func hostnamesOf(all []*listener) map[string]bool {
	names := map[string]bool{}
	for _, l := range all {
		if l.hostname != "" {
			names[l.hostname] = true
		}
	}
	return names
}

// isolated reports whether a more specific listener than l has host h. names are the hostnames of all listeners of the port.
func isolated(h string, l *listener, names map[string]bool) bool {
	taken := func(o string) bool {
		return names[o] && o != l.hostname && (l.hostname == "" || covers(l.hostname, o))
	}
	return taken(h) || slices.ContainsFunc(widerHosts(h), taken)
}

func virtualHost(h string, parts []part) model.VirtualHost {
	var rules []candidate
	seen := map[*attachment]bool{}
	// A route with several hostnames that match counts with the most specific.
	slices.SortStableFunc(parts, func(a, b part) int { return compareHosts(a.host, b.host) })
	for _, p := range parts {
		if seen[p.of] {
			continue
		}
		seen[p.of] = true
		for _, r := range p.binding.rules {
			rules = append(rules, candidate{rankedRule: r, of: p.of, host: p.host})
		}
	}
	order(rules)
	vh := model.VirtualHost{Hosts: []string{h}}
	for _, r := range rules {
		vh.Rules = append(vh.Rules, r.Rule)
	}
	return vh
}
