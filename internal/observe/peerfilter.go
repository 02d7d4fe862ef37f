package observe

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/weft-mesh/weft/internal/model"
)

// PeerFilter names one end of a flow. The zero value takes all.
type PeerFilter struct {
	namespace, name string
	prefix          netip.Prefix
	port            uint16
	identity        model.Identity
}

// ParsePeerFilter reads NAMESPACE/NAME (a workload or a service), NAMESPACE/ (all of a namespace), NAME (in any
// namespace), an address, a CIDR, any of these with :PORT, :PORT alone, or a SPIFFE ID.
func ParsePeerFilter(s string) (PeerFilter, error) {
	if s == "" {
		return PeerFilter{}, errors.New("a value is empty")
	}
	if strings.HasPrefix(s, "spiffe://") {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return PeerFilter{}, fmt.Errorf("%s is not a SPIFFE ID: %.*s", quoted(s), maxQuoted, err)
		}
		return PeerFilter{identity: model.Identity(id.String())}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return addrFilter(a, 0), nil
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return addrFilter(ap.Addr(), ap.Port()), nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return PeerFilter{prefix: p.Masked()}, nil
	} else if addr, _, ok := strings.Cut(s, "/"); ok && addr != "" {
		if _, isAddr := netip.ParseAddr(addr); isAddr == nil { // no namespace has such a name
			return PeerFilter{}, fmt.Errorf("%s is not a CIDR: %.*s", quoted(s), maxQuoted, err)
		}
	}
	var f PeerFilter
	name, port, hasPort := strings.Cut(s, ":")
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return f, fmt.Errorf("%s: the port is not a number from 1 to 65535", quoted(s))
		}
		f.port = uint16(n)
	}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		if ns == "" || strings.Contains(rest, "/") {
			return f, fmt.Errorf("%s is neither NAMESPACE/NAME[:PORT], NAME, an address, a CIDR nor a SPIFFE ID", quoted(s))
		}
		f.namespace, f.name = ns, rest
	} else {
		f.name = name
	}
	return f, nil
}

func addrFilter(a netip.Addr, port uint16) PeerFilter {
	a = a.Unmap().WithZone("")
	return PeerFilter{prefix: netip.PrefixFrom(a, a.BitLen()), port: port}
}

func (f PeerFilter) match(p Peer) bool {
	switch {
	case f.port != 0 && p.Address.Port() != f.port,
		f.identity != "" && p.Identity != f.identity,
		f.prefix.IsValid() && !f.prefix.Contains(p.Address.Addr().Unmap()):
		return false
	}
	if f.name == "" {
		return f.namespace == "" || p.Namespace() == f.namespace
	}
	for _, key := range []string{p.Workload, p.Service} {
		ns, name := model.SplitKey(key)
		if name == f.name && (f.namespace == "" || ns == f.namespace) {
			return true
		}
	}
	return false
}

func portText(p uint16) string { return strconv.Itoa(int(p)) }
