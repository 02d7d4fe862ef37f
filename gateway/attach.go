package gateway

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// route is what routes of all kinds have in common.
type route struct {
	ref        model.ObjectRef
	generation int64
	created    time.Time
	parents    []gwv1.ParentReference
	hostnames  []gwv1.Hostname
	compile    func(*resolver) *compiled
}

func (r *route) key() string { return model.Key(r.ref.Namespace, r.ref.Name) }

func (r *route) compareAge(o *route) int {
	return compareCreated(r.created, r.key(), o.created, o.key())
}

// attachment is a route with the places where its rules apply.
type attachment struct {
	route    model.ObjectRef
	created  time.Time
	bindings []binding
	closed   bool // the route is not accepted, and closes what it attaches to: see compiled
}

func (a *attachment) key() string { return model.Key(a.route.Namespace, a.route.Name) }

func (a *attachment) compareAge(o *attachment) int {
	return compareCreated(a.created, a.key(), o.created, o.key())
}

// binding is one place: a route table, and for a Gateway the listener and the hosts there.
type binding struct {
	table    string
	port     uint16 // of a Service that a route of connections attaches to
	listener string
	hosts    []boundHost
	caller   string // namespace of the callers that a consumer route is for
	parent   model.ObjectRef
	// passthrough says that a BackendTLSPolicy does not apply: the backend ends the client's TLS, or it gets datagrams.
	passthrough bool
	// detects says that the route takes those connections of a Service port that begin as HTTP does.
	detects bool
	rules   []rankedRule
}

// Names of indexes of attachments.
const (
	byTable    = "table"
	byBackend  = "backend"  // by the namespace/name of each Service that the rules lead to
	byListener = "listener" // by the key of a listener of a Gateway or a ListenerSet
)

func newAttachments(db *state.DB) *state.Table[*attachment] {
	return state.NewTable(db, "gateway-attachments", func(a *attachment) string { return a.route.String() },
		state.Index[*attachment]{Name: byTable, Of: func(a *attachment) []string {
			var tables []string
			for _, s := range a.bindings {
				if !slices.Contains(tables, s.table) {
					tables = append(tables, s.table)
				}
			}
			return tables
		}},
		state.Index[*attachment]{Name: byBackend, Of: (*attachment).backendServices},
		state.Index[*attachment]{Name: byListener, Of: func(a *attachment) []string {
			var listeners []string
			for _, s := range a.bindings {
				if s.listener != "" && !slices.Contains(listeners, s.listener) {
					listeners = append(listeners, s.listener)
				}
			}
			return listeners
		}})
}

// attacher attaches one route.
type attacher struct {
	v     *view
	route route
	// The rules differ by the kind of parent in what they may refer to; each is compiled when first needed.
	mesh, gateway *compiled
	bindings      []binding
}

// attachRoute ties a route to its parents. Of a route of connections it also says what these are divided among.
func (v *view) attachRoute(r route) []output {
	a := &attacher{v: v, route: r}
	s := &model.Status{Object: r.ref, Generation: r.generation}
	rejected := v.rejected(r.ref, r.generation)
	for i, p := range r.parents {
		if i == maxParents {
			break
		}
		if ps, ours := a.parent(p, rejected); ours {
			s.Parents = append(s.Parents, ps)
		}
	}
	var outs []output
	if len(a.bindings) > 0 {
		at := &attachment{route: r.ref, created: r.created, bindings: a.bindings, closed: a.closed()}
		outs = append(outs, out(v.attachments, r.ref.String(), at))
		// What a route may refer to is another thing for a Gateway than for a Service.
		if i := slices.IndexFunc(a.bindings, func(b binding) bool { return b.listener != "" }); i >= 0 && r.streams() {
			s := &model.StreamRoute{Route: r.ref, Generation: r.generation, Backends: a.bindings[i].rules[0].Backends}
			outs = append(outs, out(v.st.StreamRoutes, s.Key(), s))
		}
		outs = append(outs, v.meshStream(at, r.generation)...)
	}
	if len(s.Parents) > 0 {
		outs = append(outs, v.status(s))
	}
	return outs
}

func (a *attacher) closed() bool {
	return a.mesh != nil && a.mesh.closed || a.gateway != nil && a.gateway.closed
}

func (a *attacher) rules(grants bool) *compiled {
	c := &a.mesh
	if grants {
		c = &a.gateway
	}
	if *c == nil {
		*c = a.route.compile(&resolver{v: a.v, route: a.route.ref, grants: grants, bytes: a.route.streams()})
		for i := range (*c).rules {
			(*c).rules[i].Generation = a.route.generation
		}
	}
	return *c
}

// parent attaches the route to one parent. ours is false for parents that are another controller's.
func (a *attacher) parent(p gwv1.ParentReference, rejected string) (ps model.ParentStatus, ours bool) {
	ref := parentObject(p, a.route.ref.Namespace)
	ps = model.ParentStatus{Parent: ref, SectionName: orDefault(p.SectionName, "")}
	if p.Port != nil && validPort(*p.Port) {
		ps.Port = uint16(*p.Port)
	}
	var f *fault
	var c *compiled
	var note string
	switch {
	case ref.Kind == "Service" && ref.Group == "":
		c = a.rules(false)
		note, f = a.service(ref, p, c)
	case ref.Kind == "Gateway" && ref.Group == gwv1.GroupName:
		gw, ok := a.v.objs.Gateways.Get(a.v.Snapshot, model.Key(ref.Namespace, ref.Name))
		if ok && !a.v.ours(gw) {
			return ps, false
		}
		c = a.rules(true)
		if f, ps.Unresolved = noParent("there is no Gateway %q", short(model.Key(ref.Namespace, ref.Name))), !ok; ok {
			note, f = a.listeners(ref, p, c)
		}
	case ref.Kind == "ListenerSet" && ref.Group == gwv1.GroupName:
		set, ok := a.v.objs.ListenerSets.Get(a.v.Snapshot, ref.Key())
		if ok && a.v.gatewayOf(set) == nil {
			return ps, false
		}
		c = a.rules(true)
		if f, ps.Unresolved = noParent("there is no ListenerSet %q", short(ref.Key())), !ok; ok {
			note, f = a.listeners(ref, p, c)
		}
	default:
		c, ps.Unresolved = a.rules(true), true
		f = noParent("kind %q of group %q is not supported as a parent%s", short(ref.Kind), short(ref.Group), hintOfGroup(ref))
	}
	ps.Conditions = parentConditions(c, f, rejected, note)
	return ps, true
}

// parentObject returns the object that a parentRef of a route in a namespace names.
func parentObject(p gwv1.ParentReference, namespace string) model.ObjectRef {
	return model.ObjectRef{
		Group: orDefault(p.Group, gwv1.GroupName), Kind: orDefault(p.Kind, "Gateway"),
		Namespace: orDefault(p.Namespace, namespace), Name: string(p.Name),
	}
}

// parentText names a Gateway or a ListenerSet in a message.
func parentText(r model.ObjectRef) string { return r.Kind + " " + r.Key() }

// hintOfGroup tells of the group that a Service has: a parentRef that names none means that of Gateways.
func hintOfGroup(ref model.ObjectRef) string {
	if ref.Kind == "Service" {
		return `; of a Service it is group: ""`
	}
	return ""
}

func noParent(format string, args ...any) *fault {
	return &fault{reason: string(gwv1.RouteReasonNoMatchingParent), message: fmt.Sprintf(format, args...)}
}

// invalid is the fault of a route none of whose rules is valid.
func (c *compiled) invalid() *fault {
	if len(c.rules) > 0 {
		return nil
	}
	return &fault{reason: c.dropped.reason, message: strings.Join(c.dropped.messages, "; ")}
}

func parentConditions(c *compiled, f *fault, rejected, note string) []model.Condition {
	accepted := yes(model.ConditionAccepted, string(gwv1.RouteReasonAccepted))
	accepted.Message = note
	switch {
	case f != nil:
		accepted = no(model.ConditionAccepted, f.reason, f.message)
	case rejected != "":
		accepted = no(model.ConditionAccepted, string(gwv1.RouteReasonUnsupportedValue), rejected)
	case c.closed:
		accepted = no(model.ConditionAccepted, string(gwv1.RouteReasonUnsupportedValue), strings.Join(c.dropped.messages, "; "))
	}
	conds := []model.Condition{accepted, c.refs.condition(model.ConditionResolvedRefs, string(gwv1.RouteReasonResolvedRefs))}
	if accepted.Status && !c.dropped.ok() {
		conds = append(conds, model.Condition{
			Type: model.ConditionPartiallyInvalid, Status: true, Reason: string(gwv1.RouteReasonUnsupportedValue),
			Message: "Dropped Rule: " + strings.Join(c.dropped.messages, "; "),
		})
	}
	return conds
}

// service attaches to the ports of a Service (GEP-1294). A route of another namespace is for callers of its own only. note says
// which of the ports that the parentRef selects are left out.
func (a *attacher) service(ref model.ObjectRef, p gwv1.ParentReference, c *compiled) (note string, f *fault) {
	svc, ok := a.v.objs.Services.Get(a.v.Snapshot, model.Key(ref.Namespace, ref.Name))
	switch {
	case !ok:
		return "", noParent("there is no Service %q", short(model.Key(ref.Namespace, ref.Name)))
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return "", unsupported("Service %s is an ExternalName, whose traffic cannot be distinguished from other traffic", kube.Key(svc))
	case headless(svc):
		return "", unsupported("Service %s is headless, so traffic to it cannot be distinguished from traffic to its pods", kube.Key(svc))
	}
	if a.route.streams() {
		return a.stream(svc, ref, p, c)
	}
	if f := c.invalid(); f != nil {
		return "", f
	}
	if f := a.overBudget(); f != nil {
		return "", f
	}
	caller := callerOf(&a.route, svc)
	var streams *streamPorts
	if caller != "" {
		streams, _ = a.v.streamPorts.Get(a.v.Snapshot, kube.Key(svc))
	}
	var grpc map[uint16]bool
	if a.route.ref.Kind == "HTTPRoute" {
		grpc = a.v.grpcPorts(svc, caller)
	}
	selected := selectPorts(svc, p, caller)
	taken := takenPorts{left: selected.other}
	for _, port := range selected.ports {
		if grpc[port.Port] {
			taken.left = append(taken.left, fmt.Sprintf("port %d has a GRPCRoute, which goes before HTTPRoutes", port.Port))
			continue
		}
		if kind := streams.kind(callersPort{"", port.Port}); kind != "" {
			taken.left = append(taken.left, fmt.Sprintf("port %d has a %s of the Service's namespace, which goes before routes of others", port.Port, kind))
			continue
		}
		detects := selected.detects(port)
		taken.add(port, detects)
		a.add(binding{
			table: model.ServiceTable(svc.Namespace, svc.Name, port.Port), caller: caller, parent: ref, detects: detects, rules: c.rules,
		})
	}
	switch left := firsts(taken.left); {
	case taken.any():
		return taken.note(), nil
	case len(selected.ports) > 0:
		return "", &fault{reason: reasonConflicted, message: fmt.Sprintf("Service %s: %s", kube.Key(svc), left)}
	case left != "":
		return "", noParent("Service %s has no port that speaks HTTP: %s", kube.Key(svc), left)
	}
	return "", noParent("Service %s has no TCP port that port and sectionName of the parentRef select", kube.Key(svc))
}

// reasonConflicted is the Accepted condition's reason of a route that another kind of route excludes (GEP-1426).
const reasonConflicted = "Conflicted"

// add leaves out a place that another parentRef of the route named already.
func (a *attacher) add(s binding) {
	for i := range a.bindings {
		if o := &a.bindings[i]; o.table == s.table && o.listener == s.listener && o.caller == s.caller {
			o.detects = o.detects && s.detects
			return
		}
	}
	a.bindings = append(a.bindings, s)
}

// listeners attaches to the listeners of a Gateway or a ListenerSet that the parentRef selects and that allow the route. note says
// which wildcards and narrower hosts of other namespaces are apart from the route's.
func (a *attacher) listeners(parent model.ObjectRef, p gwv1.ParentReference, c *compiled) (note string, f *fault) {
	if f := c.invalid(); f != nil {
		return "", f
	}
	if f := a.overBudget(); f != nil {
		return "", f
	}
	hosts, f := routeHosts(a.route.hostnames)
	if f != nil {
		return "", f
	}
	merged := a.v.listenersOf(parent)
	switch {
	case merged == nil:
		return "", noParent("%s is not served", parentText(parent))
	case !merged.refused.ok():
		return "", noParent("%s is not attached to its Gateway: %s", parentText(parent), strings.Join(merged.refused.messages, "; "))
	}
	// What follows from a ListenerSet's routes is the Gateway's, which serves them.
	gateway := gatewayRefOf(merged.gateway)
	var selected, allowed, matched, attached bool
	for _, l := range merged.listeners {
		if !l.selectedBy(p) || !l.accepted.ok() {
			continue
		}
		selected = true
		if !slices.Contains(l.kinds, a.route.ref.Kind) || !a.v.allows(l, a.route.ref.Namespace) {
			continue
		}
		allowed = true
		on := intersect(l.hostname, hosts)
		if len(on) == 0 {
			continue
		}
		matched = true
		if a.v.conflictsOn(l, a.route.ref) {
			continue
		}
		attached = true
		if note == "" && !a.route.streams() {
			note = a.v.fallbackNote(l.key, a.route.ref.Namespace, on)
		}
		a.add(binding{table: l.table, listener: l.key, hosts: on, parent: gateway, passthrough: l.passthrough() || l.udp(), rules: c.rules})
	}
	switch {
	case !selected:
		return "", noParent("%s has no accepted listener that port and sectionName of the parentRef select", parentText(parent))
	case !allowed:
		return "", &fault{reason: string(gwv1.RouteReasonNotAllowedByListeners), message: fmt.Sprintf(
			"no listener of %s allows %ss of namespace %s", parentText(parent), a.route.ref.Kind, a.route.ref.Namespace)}
	case !matched:
		return "", &fault{reason: string(gwv1.RouteReasonNoMatchingListenerHostname), message: "no hostname of the route matches one of a listener"}
	case !attached:
		return "", unsupported("an older route of the other kind (HTTPRoute, GRPCRoute) has a hostname in common on every listener")
	}
	return note, nil
}
