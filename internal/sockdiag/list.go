package sockdiag

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Socket is one of TCP, or one of UDP that has a peer.
type Socket struct {
	Protocol uint8 // IPPROTO_TCP, IPPROTO_UDP
	Family   uint8 // AF_INET, AF_INET6
	// Local and Remote hold IPv4 addresses as such, in a socket of IPv6 too.
	Local, Remote netip.AddrPort
	State         State
	Device        uint32 // index of the interface that it is bound to, 0 for none
	Cookie        uint64 // no other socket of the kernel has it; AnyCookie where it is not known
	// Unread are bytes that its owner has not read, Unacknowledged those that its peer has not acknowledged. Of UDP, and of
	// sockets that listen, they are 0.
	Unread, Unacknowledged uint32
}

// AnyCookie stands for any socket with the same addresses (INET_DIAG_NOCOOKIE).
const AnyCookie = math.MaxUint64

// State is one of TCP (include/net/tcp_states.h).
type State uint8

// States of TCP. A UDP socket that has a peer is Established.
const (
	Established State = iota + 1
	SynSent
	SynReceived
	FinWait1
	FinWait2
	TimeWait
	Closed
	CloseWait
	LastAck
	Listening
	Closing
)

// Live reports whether a socket is a connection, or becomes one.
func (s *Socket) Live() bool { return s.State != Listening && s.State != Closed && s.State != TimeWait }

// TCP lists the sockets of TCP.
func TCP() ([]Socket, error) {
	var out []Socket
	for _, family := range families() {
		found, err := netlink.SocketDiagTCP(family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // sockets came or went meanwhile: those that were there before are in it
		}
		if err != nil {
			return nil, fmt.Errorf("list the sockets of the network namespace: %w", err)
		}
		for _, s := range found {
			out = append(out, of(s))
		}
	}
	return out, nil
}

func of(s *netlink.Socket) Socket {
	out := Socket{
		Protocol: unix.IPPROTO_TCP, Family: s.Family, State: State(s.State), Device: s.ID.Interface,
		Local: addrPort(s.ID.Source, s.ID.SourcePort), Remote: addrPort(s.ID.Destination, s.ID.DestinationPort),
		Cookie: uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]),
	}
	if out.State != Listening { // its queues count connections
		out.Unread, out.Unacknowledged = s.RQueue, s.WQueue
	}
	return out
}

func families() []uint8 {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []uint8{unix.AF_INET}
	}
	return []uint8{unix.AF_INET, unix.AF_INET6}
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
