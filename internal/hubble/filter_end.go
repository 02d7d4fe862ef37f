package hubble

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
)

// byIP passes flows with one of the addresses, or an address in one of the networks.
func byIP(values []string, of func(*flowpb.Flow) string) (test, error) {
	var networks []netip.Prefix
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if !strings.Contains(v, "/") {
			var a netip.Addr
			a, err = netip.ParseAddr(v)
			a = a.Unmap().WithZone("")
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network: %w", v, err)
		}
		networks = append(networks, p)
	}
	return func(f *flowpb.Flow) bool {
		a, err := netip.ParseAddr(of(f))
		return err == nil && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
	}, nil
}

func sourcePod(f *flowpb.Flow) (namespace, name string) {
	return f.GetSource().GetNamespace(), f.GetSource().GetPodName()
}

func destinationPod(f *flowpb.Flow) (namespace, name string) {
	return f.GetDestination().GetNamespace(), f.GetDestination().GetPodName()
}

func sourceService(f *flowpb.Flow) (namespace, name string) {
	return f.GetSourceService().GetNamespace(), f.GetSourceService().GetName()
}

func destinationService(f *flowpb.Flow) (namespace, name string) {
	return f.GetDestinationService().GetNamespace(), f.GetDestinationService().GetName()
}

// byName passes flows of which an end's name begins with NAME in NAMESPACE, for a value NAMESPACE/NAME. Either part may be
// missing; a value without a slash is of the namespace default, as in Hubble.
func byName(values []string, of func(*flowpb.Flow) (namespace, name string)) (test, error) {
	type pattern struct{ namespace, prefix string }
	var patterns []pattern
	for _, v := range values {
		ns, prefix, slash := strings.Cut(v, "/")
		switch {
		case v == "" || strings.Contains(prefix, "/"):
			return nil, fmt.Errorf("%q is not NAMESPACE/NAME, NAMESPACE/ or /NAME", v)
		case !slash:
			ns, prefix = "default", v
		}
		patterns = append(patterns, pattern{ns, prefix})
	}
	return func(f *flowpb.Flow) bool {
		ns, name := of(f)
		if ns == "" && name == "" {
			return false
		}
		return slices.ContainsFunc(patterns, func(p pattern) bool {
			return (p.namespace == "" || p.namespace == ns) && strings.HasPrefix(name, p.prefix)
		})
	}, nil
}

// byWorkload passes flows of which an end has one of the owners; an empty name or kind is any.
func byWorkload(values []*flowpb.Workload, of func(*flowpb.Flow) *flowpb.Endpoint) test {
	return func(f *flowpb.Flow) bool {
		return slices.ContainsFunc(of(f).GetWorkloads(), func(w *flowpb.Workload) bool {
			return slices.ContainsFunc(values, func(v *flowpb.Workload) bool {
				return (v.GetName() == "" || v.GetName() == w.GetName()) && (v.GetKind() == "" || v.GetKind() == w.GetKind())
			})
		})
	}
}

func sourcePort(f *flowpb.Flow) uint32 {
	return max(f.GetL4().GetTCP().GetSourcePort(), f.GetL4().GetUDP().GetSourcePort())
}

func destinationPort(f *flowpb.Flow) uint32 {
	return max(f.GetL4().GetTCP().GetDestinationPort(), f.GetL4().GetUDP().GetDestinationPort())
}

func byPort(values []string, of func(*flowpb.Flow) uint32) (test, error) {
	var ports []uint32
	for _, v := range values {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("%q is not a port from 0 to 65535", v)
		}
		ports = append(ports, uint32(n))
	}
	return among(ports, of), nil
}

// byNode passes flows of nodes by name: NODE, CLUSTER/ or CLUSTER/NODE, in which * stands for any characters but a slash.
func byNode(values []string) (test, error) {
	for _, v := range values {
		if v == "" || strings.Count(v, "/") > 1 {
			return nil, errors.New("a pattern is neither NODE, CLUSTER/ nor CLUSTER/NODE")
		}
	}
	// Flows have few names, and there may be many patterns. The filter of a request is for one goroutine.
	known := map[string]bool{}
	return func(f *flowpb.Flow) bool {
		name := f.GetNodeName()
		ok, seen := known[name]
		if !seen {
			ok = slices.ContainsFunc(values, func(v string) bool {
				cluster, node, slash := strings.Cut(v, "/")
				if !slash {
					cluster, node = "", v
				}
				return (cluster == "" || wildcard(cluster, Cluster)) && (node == "" || wildcard(node, name))
			})
			if len(known) < maxNames {
				known[name] = ok
			}
		}
		return ok
	}, nil
}

// maxNames bounds the names of nodes that a filter remembers.
const maxNames = 64

// wildcard reports whether a text matches a pattern in which * stands for any characters.
func wildcard(pattern, text string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	text = strings.ToLower(text)
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return text == first
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return true
}
