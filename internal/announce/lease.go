package announce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// A node's Lease is weft-agent-<node>, and has the labels of the agent's pods. Its spec is that of any Lease; what the
// node is to the others is in annotations.
const (
	leasePrefix = "weft-agent-"
	// selector picks the agents' Leases among those of the namespace.
	selector = "app.kubernetes.io/name=weft,app.kubernetes.io/component=agent"

	annotationReady     = "weft.io/ready"     // true: the node may take over addresses
	annotationClaims    = "weft.io/claims"    // <address>=<term>, ...
	annotationLinks     = "weft.io/links"     // <address>/<bits>, ...
	annotationAddresses = "weft.io/addresses" // <address>, ...
	// annotationAccepts is "<renewTime> <transport>,...". It holds only if the time is that of the Lease: an older version
	// of the agent, which does not know it, leaves it as it is and renews the Lease.
	annotationAccepts = "weft.io/accepts"
	longestAccepts    = 256 // bytes of names

	defaultLasts, longest = 6 * time.Second, time.Minute
)

// encode writes a candidate into its Lease, which may hold what others wrote there.
func encode(l *coordinationv1.Lease, c Candidate, lasts time.Duration, now time.Time) {
	l.Name = leasePrefix + c.Node
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	if l.Annotations == nil {
		l.Annotations = map[string]string{}
	}
	l.Labels["app.kubernetes.io/name"], l.Labels["app.kubernetes.io/component"] = "weft", "agent"
	claims := make([]string, 0, len(c.Claims))
	for _, a := range slices.SortedFunc(maps.Keys(c.Claims), netip.Addr.Compare) {
		claims = append(claims, fmt.Sprintf("%s=%d", a, c.Claims[a]))
	}
	links := make([]string, len(c.Links))
	for i, p := range c.Links {
		links[i] = p.String()
	}
	addresses := make([]string, len(c.Addresses))
	for i, a := range c.Addresses {
		addresses[i] = a.String()
	}
	l.Annotations[annotationAddresses] = strings.Join(addresses, ",")
	l.Annotations[annotationReady] = strconv.FormatBool(c.Ready)
	l.Annotations[annotationClaims] = strings.Join(claims, ",")
	l.Annotations[annotationLinks] = strings.Join(links, ",")
	now = now.Truncate(time.Microsecond) // what the API server keeps
	l.Annotations[annotationAccepts] = renewal(now) + " " + model.TransportNames(c.Accepts)
	seconds := int32(lasts / time.Second)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &c.Node, &seconds
	l.Spec.RenewTime = &metav1.MicroTime{Time: now}
}

// decode reads a Lease; ok is false where it is no agent's. What is not understood in it is left out.
func decode(l *coordinationv1.Lease) (m member, ok bool) {
	if l.Spec.HolderIdentity == nil || l.Name != leasePrefix+*l.Spec.HolderIdentity || l.Spec.RenewTime == nil {
		return member{}, false
	}
	m.Node, m.renewed, m.lasts = *l.Spec.HolderIdentity, renewal(l.Spec.RenewTime.Time), defaultLasts
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		m.lasts = min(time.Duration(*s)*time.Second, longest)
	}
	m.Ready = l.Annotations[annotationReady] == "true"
	m.Claims = map[netip.Addr]uint64{}
	for text := range strings.SplitSeq(l.Annotations[annotationClaims], ",") {
		address, term, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(address)
		t, err2 := strconv.ParseUint(term, 10, 32)
		if err == nil && err2 == nil {
			m.Claims[a] = t
		}
	}
	for text := range strings.SplitSeq(l.Annotations[annotationLinks], ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			m.Links = append(m.Links, p)
		}
	}
	for text := range strings.SplitSeq(l.Annotations[annotationAddresses], ",") {
		if a, err := netip.ParseAddr(text); err == nil && model.IsRoutable(a) && len(m.Addresses) < model.MaxNodeAddresses {
			m.Addresses = append(m.Addresses, a.Unmap())
		}
	}
	if said, names, ok := strings.Cut(l.Annotations[annotationAccepts], " "); ok && said == m.renewed && len(names) <= longestAccepts {
		m.Accepts = model.Transports(strings.Split(names, ","))
	}
	return m, true
}

func renewal(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }
