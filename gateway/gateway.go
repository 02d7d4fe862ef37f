package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var gatewayUnits = unitKind{
	name: "Gateway", stage: stageModel, compute: translateGateway,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.Gateway] { return o.Gateways }),
}

// translateGateway translates a Gateway of ours: what Envoy listens on, its route tables, and its status.
func translateGateway(v *view, key string) ([]output, bool) {
	gw, ok := v.objs.Gateways.Get(v.Snapshot, key)
	if !ok {
		v.memo.forgetHosts(key)
		return nil, false
	}
	if !v.ours(gw) || !v.st.ServesGateways(v.Snapshot) {
		v.memo.forgetHosts(key)
		return nil, true
	}
	all := v.allListeners(key)
	if len(all) == 0 {
		return nil, true // the listeners are merged first
	}
	b := newGatewayBuilder(v, gw)
	b.listeners, b.sets = all[0].listeners, all[1:]
	for _, p := range all {
		b.served = append(b.served, b.certified(p.listeners)...)
	}
	b.model.Tracing = v.tracing(key)
	b.model.BackendCertificate = v.backendCertificate(gw, &b.refs)
	b.ports()
	if len(b.model.Addresses) > 0 && len(b.model.Ports) > 0 {
		b.outs = append(b.outs, out(v.st.Gateways, key, b.model))
	}
	return append(b.outs, v.status(b.status())), true
}

func gatewayRef(gw *gwv1.Gateway) model.ObjectRef { return gatewayRefOf(kube.Key(gw)) }

// gatewayRefOf refers to the Gateway of a key.
func gatewayRefOf(key string) model.ObjectRef {
	namespace, name := model.SplitKey(key)
	return model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: namespace, Name: name}
}

type gatewayBuilder struct {
	v         *view
	gw        *gwv1.Gateway
	assigned  *assignment
	refusal   *listenerRefusal   // nil if there is room for its listeners
	listeners []*listener        // the Gateway's own
	sets      []*parentListeners // of the ListenerSets that name it
	served    []*listener        // those of both that are accepted, in the order in which they count
	certs     map[*listener][]string
	attached  map[string]int // routes by key of the listener
	refs      problems       // of the Gateway itself
	hops      string         // what is wrong with its annotation
	model     *model.Gateway
	outs      []output
}

func newGatewayBuilder(v *view, gw *gwv1.Gateway) *gatewayBuilder {
	b := &gatewayBuilder{
		v: v, gw: gw, attached: map[string]int{}, certs: map[*listener][]string{},
		model: &model.Gateway{
			Namespace: gw.Namespace, Name: gw.Name, Generation: gw.Generation, Identity: model.NewIdentity(v.cfg.TrustDomain, gw.Namespace, gw.Name),
		},
	}
	b.model.TraceSampling, _ = v.objs.TraceSampling(v.Snapshot, gw.Namespace) // its pods say what is wrong with the label
	b.model.TrustedHops, b.hops = kube.TrustedHops(gw)
	b.assigned, _ = v.assignments.Get(v.Snapshot, kube.Key(gw))
	if b.assigned == nil {
		b.assigned = &assignment{gateway: kube.Key(gw)}
	}
	b.refusal, _ = v.listenerRefusals.Get(v.Snapshot, kube.Key(gw))
	if b.assigned.accepted.ok() && b.refusal == nil {
		b.model.Addresses = b.assigned.addresses
	}
	return b
}

// certified finds the certificates of listeners, and returns those of the listeners that are accepted.
func (b *gatewayBuilder) certified(list []*listener) []*listener {
	var accepted []*listener
	for _, l := range list {
		if l.terminates() && !l.unjudged() {
			b.certs[l] = b.v.listenerCertificates(l)
		}
		if l.accepted.ok() {
			accepted = append(accepted, l)
		}
	}
	return accepted
}

// good reports whether a listener does what it is for: it is accepted, and has a certificate if it needs one.
func (b *gatewayBuilder) good(l *listener) bool {
	return l.accepted.ok() && (!l.terminates() || len(b.certs[l]) > 0)
}

// ports makes the ports and the route tables of the accepted listeners.
func (b *gatewayBuilder) ports() {
	byPort := map[transportPort][]*listener{}
	for _, l := range b.served {
		byPort[l.port] = append(byPort[l.port], l)
	}
	for port, list := range byPort {
		gp := model.GatewayPort{Port: port.number, UDP: port.udp, TLS: list[0].sni(), ListenerSets: listenerSetsOf(list)}
		if !gp.TLS && !list[0].streams() {
			b.table(list[0].table, list, list)
			gp.Listeners = []model.GatewayListener{{Name: "http", RouteTable: list[0].table}}
			b.model.Ports = append(b.model.Ports, gp)
			continue
		}
		for _, l := range list {
			gl := model.GatewayListener{Name: l.path, Hostname: l.hostname, Certificates: b.certs[l], Clients: l.clients}
			if l.streams() {
				gl.Streams = b.streams(l, list)
			} else {
				gl.RouteTable = l.table
				b.table(l.table, []*listener{l}, list)
			}
			if l.terminates() && len(b.certs[l]) == 0 || l.streams() && len(gl.Streams) == 0 {
				continue // without a certificate, or a route, connections for it are refused
			}
			gp.Listeners = append(gp.Listeners, gl)
		}
		// Without a route, a port for connections refuses them all: nobody listens there.
		if len(gp.Listeners) > 0 || slices.ContainsFunc(list, func(l *listener) bool { return l.streams() && (!l.terminates() || len(b.certs[l]) > 0) }) {
			b.model.Ports = append(b.model.Ports, gp)
		}
	}
	slices.SortFunc(b.model.Ports, func(x, y model.GatewayPort) int {
		return transportPort{x.Port, x.UDP}.compare(transportPort{y.Port, y.UDP})
	})
}

func (b *gatewayBuilder) table(name string, listeners, all []*listener) {
	t, attached := b.v.gatewayTable(name, listeners, all)
	for l, n := range attached {
		b.attached[l] += n
	}
	t.Generation, t.ListenerSets = b.gw.Generation, listenerSetsOf(listeners)
	b.outs = append(b.outs, out(b.v.st.RouteTables, name, t))
}

// status of the Gateway and its listeners.
func (b *gatewayBuilder) status() *model.Status {
	ref := gatewayRef(b.gw)
	s := &model.Status{Object: ref, Generation: b.gw.Generation, AttachedListenerSets: b.attachedSets()}
	rejected := b.v.rejected(ref, b.gw.Generation)
	var bad []string
	good := 0
	for _, l := range b.listeners {
		ls := b.listenerStatus(l, b.v.rejectedOf(ref, b.gw.Generation, b.concerns(l)))
		s.Listeners = append(s.Listeners, ls)
		if l.accepted.ok() && l.refs.ok() {
			good++
		} else {
			bad = append(bad, l.name)
		}
	}
	if extra := len(b.gw.Spec.Listeners) - len(b.listeners); extra > 0 {
		bad = append(bad, fmt.Sprintf("%d more with a name that another has, or past the limit of %d", extra, maxListeners))
	}
	for _, a := range b.model.Addresses {
		s.Addresses = append(s.Addresses, a.String())
	}
	s.Conditions = []model.Condition{b.accepted(good, bad), b.programmed(rejected)}
	if fallsBack(b.gw) {
		s.Conditions = append(s.Conditions, model.Condition{
			Type: model.ConditionInsecureFrontend, Status: true, Reason: string(gwv1.GatewayReasonConfigurationChanged),
			Message: "spec.tls.frontend has mode AllowInsecureFallback: clients are served without a valid certificate",
		})
	}
	if kube.BackendCertificateRef(b.gw) != nil {
		s.Conditions = append(s.Conditions, b.refs.condition(model.ConditionResolvedRefs, string(gwv1.GatewayReasonResolvedRefs)))
	}
	return s
}

func (b *gatewayBuilder) accepted(good int, bad []string) model.Condition {
	invalid := "listeners that are not valid: " + strings.Join(bad, ", ")
	if m := kube.UnknownFieldsOf(b.gw).Outside("spec.listeners").Message(); m != "" {
		invalid = m + "; " + invalid
	}
	anyAccepted := slices.ContainsFunc(b.listeners, func(l *listener) bool { return l.accepted.ok() })
	switch {
	case !b.assigned.accepted.ok():
		return b.assigned.accepted.condition(model.ConditionAccepted, "")
	case !anyAccepted:
		return no(model.ConditionAccepted, string(gwv1.GatewayReasonListenersNotValid), invalid)
	case good < len(b.listeners) || len(bad) > 0:
		if b.hops != "" {
			invalid += "; " + b.hops
		}
		return model.Condition{Type: model.ConditionAccepted, Status: true, Reason: string(gwv1.GatewayReasonListenersNotValid), Message: invalid}
	}
	accepted := yes(model.ConditionAccepted, string(gwv1.GatewayReasonAccepted))
	accepted.Message = b.hops
	return accepted
}

func (b *gatewayBuilder) programmed(rejected string) model.Condition {
	switch {
	case !b.assigned.accepted.ok():
		return no(model.ConditionProgrammed, string(gwv1.GatewayReasonInvalid), "the Gateway is not accepted")
	case !b.assigned.programmed.ok():
		return b.assigned.programmed.condition(model.ConditionProgrammed, "")
	case b.refusal != nil:
		return no(model.ConditionProgrammed, string(gwv1.GatewayReasonNoResources), b.refusal.why)
	case rejected != "":
		return no(model.ConditionProgrammed, string(gwv1.GatewayReasonInvalid), rejected)
	case !slices.ContainsFunc(b.model.Ports, func(p model.GatewayPort) bool { return !p.Only }):
		return no(model.ConditionProgrammed, string(gwv1.GatewayReasonInvalid), "no listener can be served")
	}
	return yes(model.ConditionProgrammed, string(gwv1.GatewayReasonProgrammed))
}

// concerns reports of resources of Envoy whether one that was refused keeps a listener from being served: what is made of another
// listener, or of another port, does not.
func (b *gatewayBuilder) concerns(l *listener) func(resource string) bool {
	prefix, port := model.GatewayPorts(b.gw.Namespace, b.gw.Name, l.port.udp), strconv.Itoa(int(l.port.number))
	return func(resource string) bool {
		_, name, _ := strings.Cut(resource, "/")
		name, _, _ = strings.Cut(name, "|")
		of, ofPort := strings.CutPrefix(name, prefix)
		if !ofPort {
			other := model.GatewayPorts(b.gw.Namespace, b.gw.Name, !l.port.udp)
			return !strings.HasPrefix(name, other)
		}
		number, ofListener, one := strings.Cut(of, "/")
		return number == port && (!one || ofListener == l.path)
	}
}

func (b *gatewayBuilder) listenerStatus(l *listener, rejected string) model.ListenerStatus {
	ls := model.ListenerStatus{Name: l.name, SupportedKinds: l.kinds, AttachedRoutes: b.attached[l.key]}
	if ls.SupportedKinds == nil {
		ls.SupportedKinds = []string{}
	}
	conflicted := no(model.ConditionConflicted, string(gwv1.ListenerReasonNoConflicts), "")
	if !l.conflicted.ok() {
		conflicted = l.conflicted.condition(model.ConditionConflicted, "")
		conflicted.Status = true
	}
	programmed := yes(model.ConditionProgrammed, string(gwv1.ListenerReasonProgrammed))
	switch {
	case !l.conflicted.ok() && l.parent.Kind == "ListenerSet":
		programmed = l.conflicted.condition(model.ConditionProgrammed, "")
	case !l.accepted.ok():
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerReasonInvalid), "the listener is not accepted")
	case l.terminates() && len(b.certs[l]) == 0:
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerReasonInvalid), "the listener has no valid certificate")
	case rejected != "":
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerReasonInvalid), rejected)
	case b.refusal != nil:
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerReasonPending), "the Gateway is over the budget of its namespace")
	case len(b.model.Addresses) == 0:
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerReasonPending), "the Gateway has no address")
	}
	ls.Conditions = []model.Condition{
		l.accepted.condition(model.ConditionAccepted, string(gwv1.ListenerReasonAccepted)),
		conflicted,
		l.refs.condition(model.ConditionResolvedRefs, string(gwv1.ListenerReasonResolvedRefs)),
		programmed,
	}
	if len(l.overlapping) > 0 {
		ls.Conditions = append(ls.Conditions, model.Condition{
			Type: model.ConditionOverlappingTLS, Status: true, Reason: string(gwv1.ListenerReasonOverlappingHostnames),
			Message: "hostnames in common with " + strings.Join(l.overlapping, ", ") + ": requests that come on a connection for another listener's host are answered 421",
		})
	}
	return ls
}
