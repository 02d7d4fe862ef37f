package gateway

import (
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// A Gateway serves its own listeners and those of the ListenerSets that it allows (GEP-1713). They are merged in the order
// of the API: the Gateway's own first, then the ListenerSets by age. A listener that conflicts with an earlier one is not
// accepted, and takes nothing from it.

// Bounds of what a Gateway serves with its ListenerSets. A namespace other than the Gateway's has a quarter of them at most,
// so that one tenant leaves room to the others.
const (
	maxMergedListeners = 1024
	maxSetPorts        = 64 // that no listener of the Gateway's own has
	setShare           = 4
)

// parentListeners are the listeners of one parent of routes, a Gateway or a ListenerSet, as they are served by a Gateway.
type parentListeners struct {
	parent    model.ObjectVersion
	created   time.Time
	gateway   string      // key
	refused   problems    // of a ListenerSet that is not attached: it has no listeners then
	listeners []*listener // nobody may change them
}

// byGateway is the index of parentListeners by Gateway.
const byGateway = "gateway"

func newMerged(db *state.DB) *state.Table[*parentListeners] {
	return state.NewTable(db, "gateway-listeners", func(p *parentListeners) string { return p.parent.String() },
		state.Index[*parentListeners]{Name: byGateway, Of: func(p *parentListeners) []string { return []string{p.gateway} }})
}

var mergeUnits = unitKind{
	name: "listeners of a Gateway", stage: stageListeners,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.Gateway] { return o.Gateways }),
	compute: func(v *view, key string) ([]output, bool) {
		gw, ok := v.objs.Gateways.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		if !v.ours(gw) {
			return nil, true
		}
		var outs []output
		assigned, _ := v.assignments.Get(v.Snapshot, key)
		for _, p := range v.mergeListeners(gw, assigned) {
			outs = append(outs, out(v.merged, p.parent.String(), p))
		}
		return outs, true
	},
}

func gatewayVersion(gw *gwv1.Gateway) model.ObjectVersion {
	return model.ObjectVersion{ObjectRef: gatewayRef(gw), Generation: gw.Generation}
}

func listenerSetVersion(set *gwv1.ListenerSet) model.ObjectVersion {
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "ListenerSet", Namespace: set.Namespace, Name: set.Name}
	return model.ObjectVersion{ObjectRef: ref, Generation: set.Generation}
}

// mergeListeners judges the listeners of a Gateway, the first row, and of the ListenerSets that name it, in the order in which
// they count. assigned may be nil: then it is as if the Gateway had all that it asks for.
func (v *view) mergeListeners(gw *gwv1.Gateway, assigned *assignment) []*parentListeners {
	if assigned == nil {
		assigned = &assignment{}
	}
	own := &parentListeners{
		parent: gatewayVersion(gw), created: gw.CreationTimestamp.Time, gateway: kube.Key(gw), listeners: v.ownListeners(gw, assigned),
	}
	out := []*parentListeners{own}
	m := newMerger(v, gw, own.listeners, assigned.taken)
	accepted := assigned.accepted.ok() && slices.ContainsFunc(own.listeners, func(l *listener) bool { return l.accepted.ok() })
	for _, set := range v.listenerSets(gw) {
		p := &parentListeners{parent: listenerSetVersion(set), created: set.CreationTimestamp.Time, gateway: own.gateway}
		switch {
		case !v.allowsListenerSets(gw, set.Namespace):
			p.refused.add(string(gwv1.ListenerSetReasonNotAllowed), fmt.Sprintf(
				"spec.allowedListeners of Gateway %s does not allow ListenerSets of namespace %s", own.gateway, set.Namespace))
		case !accepted:
			p.refused.add(string(gwv1.ListenerSetReasonParentNotAccepted), fmt.Sprintf("Gateway %s is not accepted; see its status", own.gateway))
		default:
			p.listeners = m.merge(set)
		}
		out = append(out, p)
	}
	markOverlaps(out)
	return out
}

// listenerSets lists the ListenerSets that name a Gateway, the older first.
func (v *view) listenerSets(gw *gwv1.Gateway) []*gwv1.ListenerSet {
	sets := slices.Collect(v.objs.ListenerSets.By(v.Snapshot, kube.ByParent, kube.ParentKey("Gateway", gw.Namespace, gw.Name)))
	slices.SortFunc(sets, func(a, b *gwv1.ListenerSet) int { return compareAge(a, b) })
	return sets
}

// allowsListenerSets reports whether ListenerSets of a namespace may attach to a Gateway. By default none may.
func (v *view) allowsListenerSets(gw *gwv1.Gateway, namespace string) bool {
	if gw.Spec.AllowedListeners == nil || gw.Spec.AllowedListeners.Namespaces == nil {
		return false
	}
	n := gw.Spec.AllowedListeners.Namespaces
	switch deref(n.From) {
	case gwv1.NamespacesFromAll:
		return true
	case gwv1.NamespacesFromSame:
		return namespace == gw.Namespace
	case gwv1.NamespacesFromSelector:
		selector, err := metav1.LabelSelectorAsSelector(n.Selector)
		ns, ok := v.objs.Namespaces.Get(v.Snapshot, model.Key("", namespace))
		return err == nil && ok && selector.Matches(labels.Set(ns.Labels))
	}
	return false
}

// merger adds the listeners of ListenerSets, one set after the other, to those of a Gateway.
type merger struct {
	v       *view
	gw      *gwv1.Gateway
	taken   []transportPort // ports of other Gateways
	ports   map[transportPort]*claims
	total   int            // listeners that are served
	opened  map[string]int // ports that no listener of the Gateway's own has, by the namespace that was first
	judged  map[string]int // listeners of a namespace, served or not
	setPort int            // the sum of opened
}

// claims are what earlier listeners have of a port.
type claims struct {
	classes map[listenerClass]bool // more than one if listeners of the Gateway conflict: then nobody can have the port
	hosts   map[string]*listener
}

func newMerger(v *view, gw *gwv1.Gateway, own []*listener, taken []transportPort) *merger {
	m := &merger{v: v, gw: gw, taken: taken, ports: map[transportPort]*claims{}, total: len(own), opened: map[string]int{}, judged: map[string]int{}}
	for _, l := range own {
		// One that is not accepted has its place too: a tenant must not take a name whose listener is being mended.
		if l.table != "" && l.port.number != 0 {
			m.claim(l)
		}
	}
	return m
}

func (m *merger) claim(l *listener) {
	c := m.ports[l.port]
	if c == nil {
		c = &claims{map[listenerClass]bool{}, map[string]*listener{}}
		m.ports[l.port] = c
	}
	c.classes[l.class()] = true
	if c.hosts[l.hostname] == nil {
		c.hosts[l.hostname] = l
	}
}

// merge judges the listeners of a ListenerSet. A second one of a name is left out.
func (m *merger) merge(set *gwv1.ListenerSet) []*listener {
	var list []*listener
	names := map[gwv1.SectionName]bool{}
	for i := range set.Spec.Listeners[:min(len(set.Spec.Listeners), maxListeners)] {
		name := set.Spec.Listeners[i].Name
		if names[name] {
			continue
		}
		names[name] = true
		list = append(list, m.add(set, i))
	}
	return list
}

// share is what a namespace may have of a bound.
func (m *merger) share(namespace string, most int) int {
	if namespace == m.gw.Namespace {
		return most
	}
	return most / setShare
}

// add judges the i-th listener of a ListenerSet.
func (m *merger) add(set *gwv1.ListenerSet, i int) *listener {
	const tooMany = string(gwv1.ListenerEntryReasonTooManyListeners)
	parent, spec, ns := listenerSetVersion(set), (*gwv1.Listener)(&set.Spec.Listeners[i]), set.Namespace
	if most := m.share(ns, maxMergedListeners); m.judged[ns] >= most {
		// It is not judged: what many of them cost is bounded as well.
		l := unjudgedListener(parent, spec)
		l.accepted.add(tooMany, fmt.Sprintf("a Gateway looks at %d listeners of the ListenerSets of a namespace, and older ones are that many", most))
		return l
	}
	m.judged[ns]++
	l := newListener(m.gw, parent, spec)
	l.refuseUnknown(kube.UnknownFieldsOf(set), i)
	m.v.readClients(m.gw, l)
	if !l.accepted.ok() || m.conflicts(l) {
		return l
	}
	switch {
	case slices.Contains(m.taken, l.port):
		l.accepted.add(string(gwv1.ListenerEntryReasonPortUnavailable), fmt.Sprintf("%s of the Gateway's address belongs to another Gateway", l.port))
		return l
	case m.total >= maxMergedListeners:
		l.accepted.add(tooMany, fmt.Sprintf("the Gateway and its older ListenerSets have %d listeners, which is the limit", maxMergedListeners))
		return l
	case m.ports[l.port] != nil:
	case m.setPort >= maxSetPorts || m.opened[ns] >= m.share(ns, maxSetPorts):
		l.accepted.add(string(gwv1.ListenerEntryReasonPortUnavailable), fmt.Sprintf(
			"the ListenerSets of a Gateway may open %d ports, and those of a namespace other than the Gateway's %d; use a port that one of its listeners has",
			maxSetPorts, maxSetPorts/setShare))
		return l
	default:
		m.setPort++
		m.opened[ns]++
	}
	m.total++
	m.claim(l)
	return l
}

// conflicts notes that an earlier listener excludes this one. It does not tell of a listener of another ListenerSet more than
// that it is there.
func (m *merger) conflicts(l *listener) bool {
	c := m.ports[l.port]
	if c == nil {
		return false
	}
	reason, message := "", ""
	switch other := c.hosts[l.hostname]; {
	case len(c.classes) > 1 || !c.classes[l.class()]:
		reason, message = string(gwv1.ListenerEntryReasonProtocolConflict), fmt.Sprintf("an earlier listener of the Gateway has %s with another protocol", l.port)
	case other != nil:
		reason, message = string(gwv1.ListenerEntryReasonHostnameConflict), fmt.Sprintf("%s has the same port and hostname", other.describe(l))
	default:
		return false
	}
	l.conflicted.add(reason, message)
	l.accepted.add(reason, message)
	return true
}

// describe names a listener to the owner of another one.
func (l *listener) describe(to *listener) string {
	switch {
	case l.parent.ObjectRef == to.parent.ObjectRef:
		return l.name
	case l.parent.Kind == "Gateway":
		return "listener " + l.name + " of the Gateway"
	case to.parent.Kind == "Gateway":
		return "listener " + l.name + " of " + parentText(l.parent.ObjectRef)
	}
	return "a listener of another ListenerSet"
}

// markOverlaps notes which HTTPS listeners of different parents have names in common. markConflicts does so for a Gateway's own.
func markOverlaps(parents []*parentListeners) {
	if len(parents) == 1 {
		return
	}
	at := map[transportPort]map[string]*listener{}
	each := func(visit func(*listener)) {
		for _, p := range parents {
			for _, l := range p.listeners {
				if l.https() && l.accepted.ok() {
					visit(l)
				}
			}
		}
	}
	each(func(l *listener) {
		if at[l.port] == nil {
			at[l.port] = map[string]*listener{}
		}
		at[l.port][l.pattern()] = l
	})
	note := func(l, other *listener) {
		if text := other.describe(l); len(l.overlapping) < maxMessages && !slices.Contains(l.overlapping, text) {
			l.overlapping = append(l.overlapping, text)
		}
	}
	each(func(l *listener) {
		for _, h := range widerHosts(l.pattern()) {
			if o := at[l.port][h]; o != nil && (l.parent.Kind != "Gateway" || o.parent.Kind != "Gateway") {
				note(l, o)
				note(o, l)
			}
		}
	})
}

// listenersOf returns the listeners of a parent of routes; nil if no Gateway of ours serves it.
func (v *view) listenersOf(parent model.ObjectRef) *parentListeners {
	p, _ := v.merged.Get(v.Snapshot, parent.String())
	return p
}

// allListeners returns copies of the listeners that a Gateway serves, in the order in which they count, by parent.
func (v *view) allListeners(gateway string) []*parentListeners {
	all := slices.Collect(v.merged.By(v.Snapshot, byGateway, gateway))
	slices.SortFunc(all, comparePrecedence)
	out := make([]*parentListeners, len(all))
	for i, p := range all {
		out[i] = p.clone()
	}
	return out
}

// comparePrecedence puts a Gateway before its ListenerSets, and these by age.
func comparePrecedence(a, b *parentListeners) int {
	if own := a.parent.Kind == "Gateway"; own != (b.parent.Kind == "Gateway") {
		if own {
			return -1
		}
		return 1
	}
	return compareCreated(a.created, a.parent.Key(), b.created, b.parent.Key())
}

// clone copies what the units of the model add to: what is wrong with references.
func (p *parentListeners) clone() *parentListeners {
	c := *p
	c.listeners = make([]*listener, len(p.listeners))
	for i, l := range p.listeners {
		lc := *l
		lc.refs.messages = slices.Clone(l.refs.messages)
		c.listeners[i] = &lc
	}
	return &c
}

// listenerSetsOf returns the ListenerSets that listeners come from.
func listenerSetsOf(list []*listener) model.ListenerSets {
	out := model.ListenerSets{Only: true}
	seen := map[model.ObjectRef]bool{}
	for _, l := range list {
		switch {
		case l.parent.Kind == "Gateway":
			out.Only = false
		case !seen[l.parent.ObjectRef]:
			seen[l.parent.ObjectRef] = true
			out.Sets = append(out.Sets, l.parent)
		}
	}
	return out
}

// secretsOf returns the keys of the Secrets that the accepted listeners of a ListenerSet refer to, sorted.
func secretsOf(p *parentListeners) []string {
	keys := map[string]bool{}
	for _, l := range p.listeners {
		if !l.accepted.ok() || l.spec.TLS == nil {
			continue
		}
		for _, r := range l.spec.TLS.CertificateRefs {
			keys[model.Key(orDefault(r.Namespace, p.parent.Namespace), string(r.Name))] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}
