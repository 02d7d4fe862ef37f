package gateway

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// maxListeners is the limit of the Gateway's schema.
const maxListeners = 64

// listener is a Gateway's listener as far as it can be judged without Secrets.
type listener struct {
	spec     *gwv1.Listener
	parent   model.ObjectVersion // the Gateway or the ListenerSet
	key      string              // of the Gateway, and path
	path     string              // name, of a listener of a ListenerSet after the ListenerSet's key
	name     string
	port     transportPort // its number is 0 if the spec's is not a port
	hostname string        // "" for all
	table    string
	kinds    []string // of routes that it supports and allows
	// accepted and conflicted hold what is wrong; refs only kinds that are not known.
	accepted, conflicted, refs problems
	clients                    *model.ClientValidation // nil if their certificates are not asked for
	overlapping                []string                // HTTPS listeners of the port that share a name with it
}

// listenerClass is what listeners that share a port have in common.
type listenerClass string

func (l *listener) class() listenerClass {
	switch {
	case l.udp():
		return "UDP"
	case l.sni():
		return "TLS"
	case l.streams():
		return "TCP"
	}
	return "HTTP"
}

func (l *listener) https() bool { return l.spec.Protocol == gwv1.HTTPSProtocolType }

// sni reports whether the listener is chosen by the name in the TLS handshake.
func (l *listener) sni() bool { return l.https() || l.spec.Protocol == gwv1.TLSProtocolType }

func (l *listener) udp() bool { return l.spec.Protocol == gwv1.UDPProtocolType }

// streams reports whether connections, or datagrams, are forwarded as they are.
func (l *listener) streams() bool {
	return l.spec.Protocol == gwv1.TLSProtocolType || l.spec.Protocol == gwv1.TCPProtocolType || l.udp()
}

// pattern is the hostname as route tables have it.
func (l *listener) pattern() string {
	if l.hostname == "" {
		return "*"
	}
	return l.hostname
}

// ours reports whether a Gateway's class is this controller's.
func (v *view) ours(gw *gwv1.Gateway) bool {
	c, ok := v.objs.GatewayClasses.Get(v.Snapshot, model.Key("", string(gw.Spec.GatewayClassName)))
	return ok && string(c.Spec.ControllerName) == v.cfg.ControllerName
}

// ownListeners judges the listeners of a Gateway. A second one of a name is left out.
func (v *view) ownListeners(gw *gwv1.Gateway, assigned *assignment) []*listener {
	var list []*listener
	for i := range gw.Spec.Listeners {
		spec := &gw.Spec.Listeners[i]
		if i == maxListeners || slices.ContainsFunc(list, func(l *listener) bool { return l.name == string(spec.Name) }) {
			continue
		}
		l := newListener(gw, gatewayVersion(gw), spec)
		l.refuseUnknown(kube.UnknownFieldsOf(gw), i)
		v.readClients(gw, l)
		if slices.Contains(assigned.taken, l.port) {
			l.accepted.add(string(gwv1.ListenerReasonPortUnavailable), fmt.Sprintf("%s of the Gateway's address belongs to another Gateway", l.port))
		}
		list = append(list, l)
	}
	markConflicts(list)
	return list
}

// unjudgedListener is a listener of a ListenerSet of which only the name is known.
func unjudgedListener(parent model.ObjectVersion, spec *gwv1.Listener) *listener {
	return &listener{spec: spec, parent: parent, name: short(string(spec.Name))}
}

// unjudged reports whether only the name of the listener is known.
func (l *listener) unjudged() bool { return l.key == "" }

// newListener judges a listener that a Gateway serves. parent is the Gateway or a ListenerSet.
func newListener(gw *gwv1.Gateway, parent model.ObjectVersion, spec *gwv1.Listener) *listener {
	l := &listener{spec: spec, parent: parent, name: string(spec.Name), path: string(spec.Name)}
	if parent.Kind == "ListenerSet" {
		l.path = parent.Key() + "/" + l.name
	}
	l.key = kube.Key(gw) + "/" + l.path
	if err := validHostname(l.name, false); err != "" {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf("%q is not a name of a listener", short(l.name)))
		l.name = short(l.name)
	}
	if !validPort(spec.Port) {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf("port %d is not between 1 and 65535", spec.Port))
	} else {
		l.port = transportPort{uint16(spec.Port), l.udp()}
	}
	switch spec.Protocol {
	case gwv1.HTTPProtocolType:
		l.table = model.GatewayTable(gw.Namespace, gw.Name, l.port.number, "")
		l.refuseTLS()
	case gwv1.TCPProtocolType, gwv1.UDPProtocolType:
		l.table = model.GatewayTable(gw.Namespace, gw.Name, l.port.number, l.path)
		l.refuseTLS()
	case gwv1.HTTPSProtocolType, gwv1.TLSProtocolType:
		l.table = model.GatewayTable(gw.Namespace, gw.Name, l.port.number, l.path)
		l.checkTLS()
	default:
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedProtocol), fmt.Sprintf("protocol %q is none of HTTP, HTTPS, TLS, TCP and UDP", short(string(spec.Protocol))))
	}
	if spec.Hostname != nil && *spec.Hostname != "" && spec.Protocol != gwv1.TCPProtocolType && !l.udp() {
		l.hostname = string(*spec.Hostname)
		if err := validHostname(l.hostname, true); err != "" {
			l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), err)
		}
	}
	if spec.Filters != nil && len(spec.Filters.Requests) > 0 { // they may decide who is let in
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), "filters of a listener are not supported")
	}
	l.routeKinds()
	if _, err := l.namespaces(); err != nil {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), "allowedRoutes.namespaces.selector: "+err.Error())
	}
	return l
}

// refuseUnknown refuses the listener, the i-th of its parent, if fields of the parent that are not known may be about it: they may decide
// who is let in.
func (l *listener) refuseUnknown(unknown kube.UnknownFields, i int) {
	if m := unknown.Of("spec.listeners", i).Message(); m != "" {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), m)
	}
}

// routeKinds finds what kinds of routes may attach: those of the protocol, or which of them the listener lists.
func (l *listener) routeKinds() {
	if l.table == "" {
		return
	}
	supported := []string{"HTTPRoute", "GRPCRoute"}
	switch l.spec.Protocol {
	case gwv1.TLSProtocolType:
		supported = []string{"TLSRoute"}
	case gwv1.TCPProtocolType:
		supported = []string{"TCPRoute"}
	case gwv1.UDPProtocolType:
		supported = []string{"UDPRoute"}
	}
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		l.kinds = supported
		return
	}
	for _, k := range l.spec.AllowedRoutes.Kinds {
		if orDefault(k.Group, gwv1.GroupName) != gwv1.GroupName || !slices.Contains(supported, string(k.Kind)) {
			l.refs.add(string(gwv1.ListenerReasonInvalidRouteKinds), fmt.Sprintf("route kind %q is not supported by protocol %s", short(string(k.Kind)), l.spec.Protocol))
			continue
		}
		if !slices.Contains(l.kinds, string(k.Kind)) {
			l.kinds = append(l.kinds, string(k.Kind))
		}
	}
}

// namespaces returns the selector for allowedRoutes.namespaces.from: Selector, else nil.
func (l *listener) namespaces() (labels.Selector, error) {
	a := l.spec.AllowedRoutes
	if a == nil || a.Namespaces == nil || deref(a.Namespaces.From) != gwv1.NamespacesFromSelector {
		return nil, nil
	}
	return metav1.LabelSelectorAsSelector(a.Namespaces.Selector)
}

// allows reports whether routes of a namespace may attach.
func (v *view) allows(l *listener, namespace string) bool {
	from := gwv1.NamespacesFromSame
	if a := l.spec.AllowedRoutes; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		from = *a.Namespaces.From
	}
	switch from {
	case gwv1.NamespacesFromAll:
		return true
	case gwv1.NamespacesFromSame:
		return namespace == l.parent.Namespace
	case gwv1.NamespacesFromSelector:
		selector, err := l.namespaces()
		ns, ok := v.objs.Namespaces.Get(v.Snapshot, model.Key("", namespace))
		return err == nil && ok && selector != nil && selector.Matches(labels.Set(ns.Labels))
	}
	return false
}

// selectedBy reports whether a parentRef means this listener.
func (l *listener) selectedBy(p gwv1.ParentReference) bool {
	return (p.SectionName == nil || *p.SectionName == "" || string(*p.SectionName) == l.name) &&
		(p.Port == nil || *p.Port == l.spec.Port)
}

// markConflicts finds listeners whose traffic could not be distinguished: one port can have HTTP, or TCP once, or UDP once, or
// HTTPS and TLS for different names. None of them is accepted (Gateway API,
// "Handling indistinct Listeners"). Of HTTPS listeners it also notes which others have names in common with them.
func markConflicts(list []*listener) {
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.table == "" || b.table == "" || a.port != b.port || a.port.number == 0 {
				continue
			}
			if a.https() && b.https() && overlap([]string{a.pattern()}, []string{b.pattern()}) {
				a.overlapping, b.overlapping = append(a.overlapping, b.name), append(b.overlapping, a.name)
			}
			reason, message := string(gwv1.ListenerReasonHostnameConflict), "listeners %s and %s have one port and hostname"
			if a.class() != b.class() {
				reason, message = string(gwv1.ListenerReasonProtocolConflict), "listeners %s and %s have one port and different protocols"
			} else if a.hostname != b.hostname {
				continue
			}
			for _, l := range []*listener{a, b} {
				l.conflicted.add(reason, fmt.Sprintf(message, a.name, b.name))
				l.accepted.add(reason, fmt.Sprintf(message, a.name, b.name))
			}
		}
	}
}

// routeHosts reads a route's hostnames; none means all ("*").
func routeHosts(in []gwv1.Hostname) ([]string, *fault) {
	if len(in) > maxHostnames {
		return nil, unsupported("more than %d hostnames", maxHostnames)
	}
	var hosts []string
	for _, h := range in {
		if err := validHostname(string(h), true); err != "" {
			return nil, asFault(err)
		}
		if !slices.Contains(hosts, string(h)) {
			hosts = append(hosts, string(h))
		}
	}
	if len(hosts) == 0 {
		return []string{"*"}, nil
	}
	return hosts, nil
}

// boundHost is a host at which a listener serves a route.
type boundHost struct {
	name string // the intersection of the listener's hostname and the route's
	of   string // the route's, which may be wider; by it one route goes before another
}

// intersect returns the hosts that both a listener ("" for all) and a route have, each with the most specific of the route's.
func intersect(hostname string, hosts []string) []boundHost {
	if hostname == "" {
		hostname = "*"
	}
	var out []boundHost
	for _, h := range hosts {
		b := boundHost{h, h}
		switch {
		case covers(hostname, h):
		case covers(h, hostname):
			b.name = hostname
		default:
			continue
		}
		switch i := slices.IndexFunc(out, func(o boundHost) bool { return o.name == b.name }); {
		case i < 0:
			out = append(out, b)
		case compareHosts(b.of, out[i].of) < 0:
			out[i] = b
		}
	}
	return out
}

// covers reports whether pattern ("*", "*.suffix" or exact) matches every name that host does.
func covers(pattern, host string) bool {
	if pattern == "*" || pattern == host {
		return true
	}
	suffix, wildcard := strings.CutPrefix(pattern, "*")
	return wildcard && host != "*" && strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix) && len(strings.TrimPrefix(host, "*")) > len(suffix)
}

// overlap reports whether there is a name that both lists match.
func overlap(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if covers(x, y) || covers(y, x) {
				return true
			}
		}
	}
	return false
}

// hostsOn returns the hosts that a route would have on a listener, nil if it cannot attach there.
func (v *view) hostsOn(l *listener, r *route) []boundHost {
	if !slices.Contains(l.kinds, r.ref.Kind) || !v.allows(l, r.ref.Namespace) {
		return nil
	}
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		if parentObject(p, r.ref.Namespace) != l.parent.ObjectRef || !l.selectedBy(p) {
			continue
		}
		if hosts, f := routeHosts(r.hostnames); f == nil {
			return intersect(l.hostname, hosts)
		}
	}
	return nil
}
