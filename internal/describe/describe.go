// Package describe tells what the mesh makes of one object: a pod, a Service, a Gateway or a route. It reads the rows of one
// snapshot of a node and asks nobody.
//
//	describe.go   question and answer
//	pod.go        mode, identity, certificate, policies, and the ways of a pod's connections
//	service.go    ports, endpoints, and the rules in effect
//	gateway.go    listeners, certificates and addresses
//	telemetry.go  what keeps spans of a Gateway from their collector
//	route.go      where a route's rules are, and which of them lose
//	problems.go   what is wrong, with the remedy
//	bounds.go     how long a description may be
package describe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

// Kinds that can be described. KindRoute stands for a route of any kind.
const (
	KindPod     = "Pod"
	KindService = "Service"
	KindGateway = "Gateway"
	KindRoute   = "Route"
)

// routeKinds are the kinds that KindRoute stands for.
var routeKinds = []string{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"}

// Question names an object.
type Question struct {
	Kind string `json:"kind"` // one of the constants, or the kind of a route
	Name string `json:"name"` // namespace/name
}

// ParseKind reads a kind as users write it: in any case, and in the plural too.
func ParseKind(text string) (string, error) {
	low := strings.ToLower(text)
	for _, k := range append([]string{KindPod, KindService, KindGateway, KindRoute}, routeKinds...) {
		if one := strings.ToLower(k); low == one || low == one+"s" {
			return k, nil
		}
	}
	switch low {
	case "po":
		return KindPod, nil
	case "svc":
		return KindService, nil
	case "gtw":
		return KindGateway, nil
	}
	return "", fmt.Errorf("%q cannot be described: there are pod, service, gateway, route, and the kinds of routes", text)
}

// Description is what the mesh makes of an object. One of Pod, Service, Gateway and Route is set.
type Description struct {
	Object  model.ObjectRef `json:"object"`
	Pod     *Pod            `json:"pod,omitempty"`
	Service *Service        `json:"service,omitempty"`
	Gateway *Gateway        `json:"gateway,omitempty"`
	Route   *Route          `json:"route,omitempty"`
	// Rules are those in effect, in the order in which they are tried: at a Service or a Gateway, or of a route.
	Rules    []Rule        `json:"rules,omitempty"`
	Status   *model.Status `json:"status,omitempty"`
	Problems []Problem     `json:"problems,omitempty"`
	// More counts the rows for which there was no room.
	More int `json:"more,omitempty"`
}

// Rule is a rule in effect.
type Rule struct {
	Table string     `json:"table"`
	Hosts []string   `json:"hosts"` // of the virtual host
	Place int        `json:"place"` // in the order of precedence, from 1, among those that the reader may see
	Rule  model.Rule `json:"rule"`
	// LosesTo is the rule before it that takes every request that it would take; "" if there is none. Of a rule that the reader may
	// not see it is ruleOfAnother.
	LosesTo string `json:"losesTo,omitempty"`
}

// Stream is a TLSRoute, TCPRoute or UDPRoute that a listener of a Gateway uses, or a TCPRoute that a port of a Service has.
type Stream struct {
	Gateway  string          `json:"gateway,omitempty"` // namespace/name
	Service  string          `json:"service,omitempty"` // the same of a Service
	Port     uint16          `json:"port"`
	Listener string          `json:"listener,omitempty"`
	Hostname string          `json:"hostname,omitempty"` // SNI; "" for all
	Route    model.ObjectRef `json:"route"`
	// CallerNamespace is the namespace of the callers; "" for all.
	CallerNamespace string    `json:"callerNamespace,omitempty"`
	Backends        []Backend `json:"backends,omitempty"`
}

// Backend is a backend of a route, and what serves it.
type Backend struct {
	model.Backend
	Endpoints int `json:"endpoints"` // that are ready
	// Hidden is true if the reader may not see the backend's namespace, and so how many endpoints there are.
	Hidden bool `json:"hidden,omitempty"`
}

// Certificate is one that a Gateway shows.
type Certificate struct {
	Name     string    `json:"name"` // namespace/name of the Secret
	Names    []string  `json:"names,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	Error    string    `json:"error,omitempty"`
}

// Node is what is known of the node that answers.
type Node struct {
	explain.Node
	// Sees reports whether the reader may see a namespace: what is of others is left out, or not named. He must see the object's
	// own. Nil is all, and what is of nodes alone.
	Sees func(namespace string) bool
}

func (n *Node) sees(namespace string) bool {
	return n.Sees == nil || namespace == "" || n.Sees(namespace)
}

func (n *Node) seesKey(key string) bool {
	ns, _ := model.SplitKey(key)
	return n.sees(ns)
}

// ruleOfAnother is what LosesTo says of a rule that the reader may not see.
const ruleOfAnother = "a rule of another namespace"

// Describe answers a question. It fails with explain.ErrUnknown if there is no such object.
func (n *Node) Describe(q Question) (*Description, error) {
	ns, name := model.SplitKey(q.Name)
	if ns == "" || name == "" {
		return nil, fmt.Errorf("%q is not of the form NAMESPACE/NAME", q.Name)
	}
	d := &description{Node: n, out: &Description{Object: model.ObjectRef{Kind: q.Kind, Namespace: ns, Name: name}}}
	known := false
	switch q.Kind {
	case KindPod:
		known = d.pod(q.Name)
	case KindService:
		known = d.service(q.Name)
	case KindGateway:
		known = d.gateway(q.Name)
	default:
		kinds := []string{q.Kind}
		if q.Kind == KindRoute {
			kinds = routeKinds
		}
		known = slices.ContainsFunc(kinds, func(kind string) bool { return d.route(kind, ns, name) })
	}
	if !known {
		return nil, fmt.Errorf("%s %s is %w%s", q.Kind, q.Name, explain.ErrUnknown, unknownHint[q.Kind])
	}
	return d.out, nil
}

var unknownHint = map[string]string{
	KindPod:     ": it does not exist, it has ended, or it uses the host's network",
	KindGateway: ": it does not exist, or it is of another class",
}

// description is one in the making.
type description struct {
	*Node
	out *Description
}

// status takes over the status of the object. It reports whether there is one.
func (d *description) status(kind, namespace, name string) bool {
	for s := range d.State.Statuses.All(d.Snapshot) {
		if s.Object.Kind == kind && s.Object.Namespace == namespace && s.Object.Name == name {
			d.out.Object, d.out.Status = s.Object, s
			return true
		}
	}
	return false
}

// table adds the rules of a route table that keep takes.
func (d *description) table(t *model.RouteTable, keep func(*model.Rule) bool) {
	for _, v := range t.VirtualHosts {
		place := 0
		for i := range v.Rules {
			r := &v.Rules[i]
			if !d.sees(r.Route.Namespace) || r.Route.Name == "" && !d.sees(r.CallerNamespace) {
				continue
			}
			place++
			if !keep(r) {
				continue
			}
			out := Rule{Table: t.Name, Hosts: v.Hosts, Place: place, Rule: *r}
			if slices.Contains(routeKinds, r.Route.Kind) { // else it is the mesh's own, for what no route takes
				out.LosesTo = d.losesTo(v.Rules[:i], r)
			}
			d.out.Rules = append(d.out.Rules, out)
		}
	}
}

// losesTo names the first of the rules before one that takes every request which it would take.
func (n *Node) losesTo(before []model.Rule, r *model.Rule) string {
	for i := range before {
		if b := &before[i]; covers(b, r) {
			if !n.sees(b.Route.Namespace) {
				return ruleOfAnother
			}
			return fmt.Sprintf("%s[%d]", b.Route, b.Index)
		}
	}
	return ""
}

// covers reports whether a rule takes all that another would take. It compares what is asked of a request part by part, so it
// does not find every such pair.
func covers(a, b *model.Rule) bool {
	if a.CallerNamespace != "" && a.CallerNamespace != b.CallerNamespace || a.Match.Method != "" && a.Match.Method != b.Match.Method || a.Match.GRPC && !b.Match.GRPC {
		return false
	}
	for _, h := range a.Match.Headers {
		if !slices.Contains(b.Match.Headers, h) {
			return false
		}
	}
	for _, q := range a.Match.Query {
		if !slices.Contains(b.Match.Query, q) {
			return false
		}
	}
	return coversPath(a.Match.Path, b.Match.Path)
}

func coversPath(a, b model.PathMatch) bool {
	if a == b || a.Type == "" || a.Type == model.MatchPrefix && strings.Trim(a.Value, "/") == "" {
		return true
	}
	return a.Type == model.MatchPrefix && (b.Type == model.MatchPrefix || b.Type == model.MatchExact) && a.Matches(b.Value)
}

// backends adds to a route's backends how many endpoints serve them.
func (d *description) backends(all []model.Backend, transport model.Protocol) []Backend {
	out := make([]Backend, len(all))
	for i, b := range all {
		out[i] = d.backend(b, d.serving(b, transport))
	}
	return out
}

func (n *Node) backend(b model.Backend, endpoints int) Backend {
	if !n.sees(b.Namespace) {
		return Backend{Backend: b, Hidden: true}
	}
	return Backend{Backend: b, Endpoints: endpoints}
}

// serving counts the endpoints of a backend that Envoy may use.
func (d *description) serving(b model.Backend, transport model.Protocol) int {
	row, ok := d.State.Endpoints.Get(d.Snapshot, model.PortKey(b.Namespace, b.Name, b.Port, transport))
	if !ok {
		return 0
	}
	n := 0
	for _, e := range row.Backends {
		if !e.NotGranted {
			n++
		}
	}
	return n
}

// divisions returns what the ports of Services do with connections, where keep takes the Service and the route.
func (d *description) divisions(keep func(service string, route model.ObjectRef) bool) []Stream {
	var out []Stream
	for row := range d.State.Divisions.All(d.Snapshot) {
		for _, n := range row.Names {
			if keep(row.Service, n.Route) && d.sees(n.Route.Namespace) {
				out = append(out, d.named(row, n))
			}
		}
		if row.ByName() || !keep(row.Service, row.Route) || !d.sees(row.Route.Namespace) {
			continue
		}
		s := Stream{Service: row.Service, Port: row.Port, Route: row.Route, CallerNamespace: row.CallerNamespace}
		for _, share := range row.Shares {
			s.Backends = append(s.Backends, d.backend(share.Backend, len(share.Endpoints)))
		}
		out = append(out, s)
	}
	return out
}

// named returns what a port of a Service does with TLS connections with a server name.
func (d *description) named(row *model.Division, n model.GatewayStream) Stream {
	s := Stream{Service: row.Service, Port: row.Port, Hostname: n.Hostname, Route: n.Route, CallerNamespace: row.CallerNamespace}
	if r, ok := d.State.StreamRoutes.Get(d.Snapshot, model.MeshStreamKey(n.Route)); ok {
		s.Backends = d.backends(r.Backends, model.TCP)
	}
	return s
}

// streams adds what the listeners of Gateways do with connections and datagrams, where keep takes the route.
func (d *description) streams(g *model.Gateway, keep func(model.ObjectRef) bool) []Stream {
	var out []Stream
	for _, p := range g.Ports {
		transport := model.TCP
		if p.UDP {
			transport = model.UDP
		}
		for _, l := range p.Listeners {
			for _, s := range l.Streams {
				if !keep(s.Route) || !d.sees(s.Route.Namespace) {
					continue
				}
				stream := Stream{Gateway: g.Key(), Port: p.Port, Listener: l.Name, Hostname: cmp.Or(s.Hostname, l.Hostname), Route: s.Route}
				if row, ok := d.State.StreamRoutes.Get(d.Snapshot, model.StreamKey(s.Route)); ok {
					stream.Backends = d.backends(row.Backends, transport)
				}
				out = append(out, stream)
			}
		}
	}
	return out
}
