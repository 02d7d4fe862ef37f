package hostaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// addressMark tells our addresses on links from those of others: it is their metric (IFA_RT_PRIORITY, Linux 4.18), which
// means nothing, for they have no prefix route. IFA_PROTO is made for this, but came with 5.18.
const addressMark = 0x77656674 // "weft"

// linkAddress is an address that a link has.
type linkAddress struct {
	prefix netip.Prefix
	link   int // index
	ours   bool
}

// listAddresses gives the addresses of all links.
func listAddresses() ([]linkAddress, error) {
	var msgs [][]byte
	var err error
	for range 5 { // what changes while it is listed interrupts the list
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		if msgs, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	var out []linkAddress
	for _, m := range msgs {
		if a, ok := parseAddress(m); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

// parseAddress reads an RTM_NEWADDR (rtnetlink(7)).
func parseAddress(m []byte) (linkAddress, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return linkAddress{}, false
	}
	head := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return linkAddress{}, false
	}
	out := linkAddress{link: int(head.Index)}
	var addr netip.Addr
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.IFA_LOCAL, a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid():
			addr, _ = netip.AddrFromSlice(a.Value)
		case a.Attr.Type == unix.IFA_RT_PRIORITY && len(a.Value) == 4:
			out.ours = binary.NativeEndian.Uint32(a.Value) == addressMark
		}
	}
	out.prefix = netip.PrefixFrom(addr, int(head.Prefixlen))
	return out, addr.IsValid()
}

// addAddress puts an address on a link, alone on its prefix and without a route, so that nothing but it becomes local.
// The node's own connections never come from it: by its scope (IPv4), or because it is deprecated (IPv6).
func addAddress(addr netip.Addr, link int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	head := addressHead(req, addr, link)
	flags := uint32(unix.IFA_F_NOPREFIXROUTE)
	if addr.Is4() {
		head.Scope = unix.RT_SCOPE_LINK
	} else {
		flags |= unix.IFA_F_NODAD                                                                   // whoever had it before may still answer
		forever := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: ^uint32(0), Prefered: 0}} //nolint:misspell // the kernel's name for it
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, forever.Serialize()))
	}
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	req.AddData(nl.NewRtAttr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(addressMark)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("put %s on link %d: %w", addr, link, err)
	}
	return nil
}

// removeAddress takes an address from a link. It may be gone, and the link too.
func removeAddress(addr netip.Addr, link int) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELADDR, unix.NLM_F_ACK)
	addressHead(req, addr, link)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take %s from link %d: %w", addr, link, err)
	}
	return nil
}

func addressHead(req *nl.NetlinkRequest, addr netip.Addr, link int) *nl.IfAddrmsg {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	head := nl.NewIfAddrmsg(family)
	head.Index, head.Prefixlen = uint32(link), uint8(addr.BitLen())
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr.AsSlice()))
	return head
}

// removeLinkAddresses takes all of ours away.
func removeLinkAddresses() error {
	have, err := listAddresses()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range have {
		if a.ours {
			errs = append(errs, removeAddress(a.prefix.Addr(), a.link))
		}
	}
	return errors.Join(errs...)
}

// neighbourly tells whether a link is up and has neighbours that ask for addresses by ARP or NDP.
func neighbourly(l *net.Interface) bool {
	return l.Flags&net.FlagUp != 0 && l.Flags&net.FlagBroadcast != 0 && l.Flags&net.FlagLoopback == 0 &&
		len(l.HardwareAddr) == 6 && !noARP(l.Index)
}

func noARP(link int) bool {
	l, err := netlink.LinkByIndex(link)
	return err != nil || l.Attrs().RawFlags&unix.IFF_NOARP != 0
}

// LinkPrefixes gives the host's own addresses on links with neighbours, with the prefixes that are on link by them: not
// those that Announcer put there.
func LinkPrefixes() ([]netip.Prefix, error) {
	have, err := listAddresses()
	if err != nil {
		return nil, err
	}
	good := map[int]bool{}
	var out []netip.Prefix
	for _, a := range have {
		if _, known := good[a.link]; !known {
			l, err := net.InterfaceByIndex(a.link)
			good[a.link] = err == nil && neighbourly(l)
		}
		if addr := a.prefix.Addr(); !a.ours && good[a.link] && addr.IsGlobalUnicast() {
			out = append(out, a.prefix)
		}
	}
	return out, nil
}

// Own gives the host's own addresses, neither loopback nor link-local, and not those that Announcer put there.
func Own() ([]netip.Addr, error) {
	have, err := listAddresses()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range have {
		if addr := a.prefix.Addr().Unmap(); !a.ours && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
			out = append(out, addr)
		}
	}
	return out, nil
}

// linkFor gives the link that an address belongs on: that of the most specific route to it, connected or not.
func linkFor(addr netip.Addr) (*net.Interface, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	routes, err := netlink.RouteList(nil, family) // of the main table
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var best *net.Interface
	bits, metric := -1, 0
	for _, r := range routes {
		link := r.LinkIndex
		if link == 0 && len(r.MultiPath) > 0 {
			link = r.MultiPath[0].LinkIndex
		}
		n := 0
		if r.Dst != nil {
			if n, _ = r.Dst.Mask.Size(); !r.Dst.Contains(addr.AsSlice()) {
				continue
			}
		}
		if n < bits || n == bits && r.Priority >= metric || r.Type != unix.RTN_UNICAST {
			continue
		}
		if l, err := net.InterfaceByIndex(link); err == nil && neighbourly(l) {
			best, bits, metric = l, n, r.Priority
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no route to %s goes by a link with neighbours: which link is it to be announced on?", addr)
	}
	return best, nil
}
