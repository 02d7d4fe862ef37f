package hostaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
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

// key is that of the row in the table HostAddresses.
func (a linkAddress) key() string { return (&model.HostAddress{Link: a.link, Prefix: a.prefix}).Key() }

// relevant reports whether the address has a row in the table HostAddresses. IPv6 link-local addresses have none: each
// pod's link has one.
func (a linkAddress) relevant() bool {
	addr := a.prefix.Addr()
	return addr.IsGlobalUnicast() || addr.Is4() && addr.IsLinkLocalUnicast()
}

// dump lists everything of one kind. A list during which something changes is interrupted, and begins anew.
func dump(kind int, kindOfAnswer uint16, data ...nl.NetlinkRequestData) (messages [][]byte, err error) {
	for range dumpAttempts {
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		for _, d := range data {
			req.AddData(d)
		}
		if messages, err = req.Execute(unix.NETLINK_ROUTE, kindOfAnswer); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return messages, err
}

// dumpAttempts bounds how often a list is begun.
const dumpAttempts = 5

// listLinks lists the links by their indexes. The value is true for a link with neighbours.
func listLinks() (map[int]bool, error) {
	const skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS: they are most of a link's message
	messages, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK,
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStatistics)))
	if err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	out := map[int]bool{}
	for _, m := range messages {
		if link, neighbours, ok := parseLink(m); ok {
			out[link] = neighbours
		}
	}
	return out, nil
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK (rtnetlink(7)). Neighbours are asked for addresses by ARP or NDP if the
// link is up, broadcasts, and has an Ethernet address. Messages of a bridge about its ports are not about a link itself.
func parseLink(m []byte) (link int, neighbours, ok bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return 0, false, false
	}
	head := nl.DeserializeIfInfomsg(m)
	if head.Family != unix.AF_UNSPEC {
		return 0, false, false
	}
	const want = unix.IFF_UP | unix.IFF_BROADCAST
	neighbours = head.Flags&(want|unix.IFF_LOOPBACK|unix.IFF_NOARP) == want && head.Type == unix.ARPHRD_ETHER
	return int(head.Index), neighbours, true
}

// listAddresses lists the addresses of all links.
func listAddresses() ([]linkAddress, error) {
	msgs, err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
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

// parseAddress reads an RTM_NEWADDR or RTM_DELADDR (rtnetlink(7)).
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

// neighbourly reports whether neighbours on a link ask for addresses by ARP or NDP.
func neighbourly(l netlink.Link) bool {
	a := l.Attrs()
	const want = unix.IFF_UP | unix.IFF_BROADCAST
	return a.RawFlags&(want|unix.IFF_LOOPBACK|unix.IFF_NOARP) == want && a.EncapType == "ether"
}

// linkFor gives the link that an address belongs on: that of the most specific route to it, connected or not.
func linkFor(addr netip.Addr) (netlink.Link, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	routes, err := netlink.RouteList(nil, family) // of the main table
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var best netlink.Link
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
		if l, err := netlink.LinkByIndex(link); err == nil && neighbourly(l) {
			best, bits, metric = l, n, r.Priority
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no route to %s goes by a link with neighbours: which link is it to be announced on?", addr)
	}
	return best, nil
}
