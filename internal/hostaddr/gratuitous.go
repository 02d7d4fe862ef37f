package hostaddr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// gratuitous gives the Ethernet frames that tell neighbours that an address is now at mac: for IPv4 an ARP request and an
// ARP reply about ourselves (RFC 5944, 4.6: hosts may heed the one or the other), for IPv6 an unsolicited neighbour
// advertisement (RFC 4861, 7.2.6).
func gratuitous(addr netip.Addr, mac net.HardwareAddr) [][]byte {
	if addr.Is4() {
		return [][]byte{gratuitousARP(addr, mac, 1), gratuitousARP(addr, mac, 2)}
	}
	return [][]byte{advertisement(addr, mac)}
}

func ethernet(to, from net.HardwareAddr, kind uint16) []byte {
	f := append(append(make([]byte, 0, 128), to...), from...)
	return binary.BigEndian.AppendUint16(f, kind)
}

// gratuitousARP is RFC 826 with sender and target alike; op is 1 (request) or 2 (reply).
func gratuitousARP(addr netip.Addr, mac net.HardwareAddr, op uint16) []byte {
	everybody := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	f := ethernet(everybody, mac, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4
	f = binary.BigEndian.AppendUint16(f, op)
	f = append(append(f, mac...), addr.AsSlice()...)
	return append(append(f, mac...), addr.AsSlice()...)
}

// advertisement is a neighbour advertisement to all nodes, with the override flag.
func advertisement(addr netip.Addr, mac net.HardwareAddr) []byte {
	all := netip.MustParseAddr("ff02::1")
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	icmp = append(append(icmp, addr.AsSlice()...), 2, 1) // option: target link-layer address, 8 bytes
	icmp = append(icmp, mac...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(addr, all, icmp))
	f := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(icmp)))
	f = append(f, unix.IPPROTO_ICMPV6, 255) // with a lower hop limit it is ignored
	f = append(append(f, addr.AsSlice()...), all.AsSlice()...)
	return append(f, icmp...)
}

// checksum is that of RFC 8200, 8.1 for ICMPv6; the message has an even length.
func checksum(from, to netip.Addr, message []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	sum := uint32(0)
	for _, part := range [][]byte{pseudo, message} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// announce sends the frames for an address on a link once.
func announce(addr netip.Addr, link int) error {
	l, err := net.InterfaceByIndex(link)
	if err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	// Protocol 0: the socket only sends.
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("announce %s on %s: packet socket (it needs CAP_NET_RAW): %w", addr, l.Name, err)
	}
	defer unix.Close(s)
	var errs []error
	for _, f := range gratuitous(addr, l.HardwareAddr) {
		to := &unix.SockaddrLinklayer{Ifindex: link, Halen: 6}
		copy(to.Addr[:], f[:6])
		if err := unix.Sendto(s, f, 0, to); err != nil {
			errs = append(errs, fmt.Errorf("announce %s on %s: %w", addr, l.Name, err))
		}
	}
	return errors.Join(errs...)
}
