package datapath

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// Flags of bpf/maps.h.
const (
	frontendL7       = 1
	frontendDetect   = 2
	frontendCallers  = 4
	frontendSNI      = 8
	workloadIdentity = 1
	workloadStrict   = 2
	workloadPoliced  = 4
	addressContested = 8
	workloadTunnel   = 16
	peerByEnvoy      = 32
	peerSomePorts    = 64

	callerShift = 24 // of a pod's flags: from here on they are the number of its namespace
)

// portEntries is what the kernel is to know about one service port in one address family.
type portEntries struct {
	Name      string // DivisionKey, with "|6" for IPv6
	Frontends []weftFrontendKey
	Backends  []weftEndpoint
	L7        bool
	Detect    bool   // of an L7 port: Envoy finds out what a connection speaks
	SNI       bool   // of an L7 port: Envoy reads the server name
	Callers   bool   // there are entries for callers of some namespaces
	Affinity  uint32 // seconds
	Sticky    bool   // backends are to be found by address too
	// Live are all backends of a UDP port, with those that terminate: sockets that have one of these keep it. Nil for TCP.
	Live map[weftEndpoint]bool
}

// serviceEntries translates a Service. Addresses that mean something else on each machine (loopback, link-local) are left
// out wherever they come from: to take connections to them, or to send some there, would lead into the node itself.
//
// A port in a family in which the Service has no address gives nothing; one without backends refuses connections.
// endpoints finds the Endpoints of a PortKey, divisions its Division, callers those for the callers of a namespace, by its number.
func serviceEntries(s *model.Service, endpoints func(key string) (*model.Endpoints, bool), divisions func(key string) (*model.Division, bool),
	callers func(key string) map[uint8]*model.Division) []portEntries {
	var out []portEntries
	for _, p := range s.Ports {
		key := model.PortKey(s.Namespace, s.Name, p.Port, p.Protocol)
		e, _ := endpoints(key)
		for _, v6 := range []bool{false, true} {
			pe := portEntries{
				Name: key, L7: p.L7 && p.Protocol == model.TCP, Detect: p.Detect, Affinity: seconds(s.Affinity),
				Frontends: frontendsOf(s, p, v6, 0),
			}
			if len(pe.Frontends) == 0 {
				continue
			}
			if v6 {
				pe.Name += "|6"
			}
			pe.Sticky = pe.Affinity > 0 || p.Protocol == model.UDP
			if p.Protocol == model.TCP {
				own := callerEntries(s, p, v6, callers(key), e)
				pe.Callers = len(own) > 0
				out = append(out, own...)
			}
			var terminating []weftEndpoint
			pe.Backends, terminating = backendsOf(e, v6)
			if d, ok := divisions(key); ok && p.Protocol == model.TCP {
				pe.divide(d, v6)
			}
			if p.Protocol == model.UDP {
				pe.Live = map[weftEndpoint]bool{}
				for _, b := range slices.Concat(pe.Backends, terminating) {
					pe.Live[b] = true
				}
			}
			out = append(out, pe)
		}
	}
	return out
}

// divide follows a Division. Connections that Envoy divides have the port's own backends, for while Envoy does not listen.
func (pe *portEntries) divide(d *model.Division, v6 bool) {
	if d.ByName() {
		pe.L7, pe.Detect, pe.SNI = true, false, true
		return
	}
	pe.Backends = divided(d, v6)
}

// callerEntries are those of a port for the callers of some namespaces, by number. e are the port's own backends.
func callerEntries(s *model.Service, p model.ServicePort, v6 bool, callers map[uint8]*model.Division, e *model.Endpoints) []portEntries {
	var out []portEntries
	for _, number := range slices.Sorted(maps.Keys(callers)) {
		d := callers[number]
		pe := portEntries{
			Name: d.Key(), Affinity: seconds(s.Affinity), Sticky: s.Affinity > 0,
			Frontends: frontendsOf(s, p, v6, number),
		}
		pe.Backends, _ = backendsOf(e, v6)
		pe.divide(d, v6)
		if v6 {
			pe.Name += "|6"
		}
		out = append(out, pe)
	}
	return out
}

func frontendsOf(s *model.Service, p model.ServicePort, v6 bool, caller uint8) []weftFrontendKey {
	var out []weftFrontendKey
	for _, a := range s.Addresses {
		a = a.Unmap()
		if model.IsRoutable(a) && a.Is6() == v6 {
			k := encodeFrontend(netip.AddrPortFrom(a, p.Port), p.Protocol)
			k.Pad = caller
			out = append(out, k)
		}
	}
	return out
}

// backendsOf lists the backends for new connections, and those that terminate. Where there are no others, these are for new
// connections.
func backendsOf(e *model.Endpoints, v6 bool) (ready, terminating []weftEndpoint) {
	if e == nil {
		return nil, nil
	}
	seen := map[weftEndpoint]bool{}
	for _, b := range e.Backends {
		a := netip.AddrPortFrom(b.Address.Addr().Unmap(), b.Address.Port())
		if !model.IsRoutable(a.Addr()) || a.Addr().Is6() != v6 || seen[encode(a)] {
			continue
		}
		seen[encode(a)] = true
		if b.Terminating {
			terminating = append(terminating, encode(a))
		} else {
			ready = append(ready, encode(a))
		}
	}
	if len(ready) == 0 {
		return terminating, nil
	}
	return ready, terminating
}

func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min(max(d/time.Second, 1), 1<<31))
}

// workloadFlags are what programs know of a workload.
func workloadFlags(w *model.Workload) uint32 {
	var f uint32
	if w.Identity != "" {
		f |= workloadIdentity
	}
	if w.MTLS == model.MTLSStrict {
		f |= workloadStrict
	}
	if w.Policy != nil {
		f |= workloadPoliced
	}
	return f
}

// inspectedPorts are a workload's addresses with the ports where a policy looks at requests, for programs to tell those from the
// others; nil if there are none, or if all ports are alike.
func inspectedPorts(w *model.Workload) map[weftEndpoint]uint32 {
	ports, all := w.Policy.InspectedPorts()
	if w.Identity == "" || all {
		return nil
	}
	out := map[weftEndpoint]uint32{}
	for _, a := range w.Addresses {
		for _, p := range ports {
			out[encode(netip.AddrPortFrom(a, p))] = 1
		}
	}
	return out
}

// peerEntries are a workload's addresses as others see them: those with an identity, and those where nobody can have one.
// unreached says that weft tunnel cannot reach the workload, somePorts that its inspectedPorts are known.
func peerEntries(w *model.Workload, unreached, somePorts bool) map[weftAddress]uint32 {
	out := map[weftAddress]uint32{}
	for _, a := range w.Addresses {
		if w.Identity != "" {
			f := workloadFlags(w) &^ workloadPoliced
			switch {
			case unreached || w.Policy.HTTP() && !somePorts:
				f |= peerByEnvoy
			case somePorts:
				f |= peerByEnvoy | peerSomePorts
			}
			out[encodeAddr(a)] = f
		}
	}
	for _, a := range w.Contested {
		out[encodeAddr(a)] = addressContested
	}
	return out
}

// localEntries are those of a workload of this node.
type localEntries struct {
	Own    map[weftOwnKey]uint32
	Self   map[weftSelfKey]weftAddress // the first of each family
	Probes probeEntries
	Flags  uint32
}

func entriesOf(w *model.Workload, cookie uint64) localEntries {
	e := localEntries{
		Own: map[weftOwnKey]uint32{}, Self: map[weftSelfKey]weftAddress{}, Probes: probeEntriesOf(w, cookie),
		Flags: workloadFlags(w),
	}
	for _, a := range slices.Concat(w.Addresses, w.Contested) {
		e.Own[weftOwnKey{Netns: cookie, Addr: encodeAddr(a)}] = 1
		self := weftSelfKey{Netns: cookie}
		if a.Unmap().Is6() {
			self.Ipv6 = 1
		}
		if _, ok := e.Self[self]; !ok {
			e.Self[self] = encodeAddr(a)
		}
	}
	return e
}

// arrange puts the wanted backends into slots so that as few as possible change: those that stay keep their slots, new
// ones fill the holes, and the last ones move into the holes that are left. The result has len(want) slots. A backend may have
// several.
func arrange(have, want []weftEndpoint) []weftEndpoint {
	wanted := make(map[weftEndpoint]int, len(want))
	for _, b := range want {
		wanted[b]++
	}
	out := make([]weftEndpoint, len(want))
	for i, b := range have {
		if i < len(out) && wanted[b] > 0 {
			out[i] = b
			wanted[b]--
		}
	}
	next := 0
	for _, b := range want {
		if wanted[b] == 0 {
			continue
		}
		wanted[b]--
		for out[next] != (weftEndpoint{}) {
			next++
		}
		out[next] = b
	}
	return out
}
