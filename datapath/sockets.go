package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
)

// Ports of Envoy and weft tunnel in the pods' namespaces (docs/design/connections.md).
const (
	portHTTP      = model.PortHTTP
	portTCP       = model.PortTCP
	portTunnelOut = model.PortTunnelOut
	portIn        = model.PortInbound
	portHBONE     = model.PortHBONE
	portTunnel    = model.PortTunnel
)

// Connections selects live TCP connections of a workload.
type Connections uint8

const (
	// Plaintext are inbound connections that did not come through Envoy, and that strict mode or a policy would not
	// let in now; and those to Envoy that came in the clear.
	Plaintext Connections = iota + 1
	// Authenticated are inbound connections to port 15008.
	Authenticated
	// Inbound are both.
	Inbound
)

// socket is a TCP socket as sock_diag lists it, or a UDP socket that is to be destroyed.
type socket struct {
	protocol      uint8
	local, remote netip.AddrPort
	state         uint8
	diag          *netlink.Socket
}

const (
	tcpListen = 10 // include/net/tcp_states.h
	tcpClose  = 7
	// tcpEstablished is also the state of a UDP socket that has a peer.
	tcpEstablished = 1
	timeWait       = 6
)

// listSockets gives the TCP sockets of the calling thread's namespace.
func listSockets() ([]socket, error) {
	var out []socket
	for _, family := range families() {
		found, err := netlink.SocketDiagTCP(uint8(family))
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // sockets came or went meanwhile: those that were there before are in it
		}
		if err != nil {
			return nil, fmt.Errorf("list the sockets of the network namespace: %w", err)
		}
		for _, s := range found {
			out = append(out, socket{
				protocol: unix.IPPROTO_TCP, local: addrPort(s.ID.Source, s.ID.SourcePort), remote: addrPort(s.ID.Destination, s.ID.DestinationPort),
				state: s.State, diag: s,
			})
		}
	}
	return out, nil
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// inbound finds connections that peers outside of the namespace made. Their other end is not in this namespace, as it is
// for Envoy's connections to the workload. Their local port is one that is listened on, or one that the kernel would not
// have chosen for a connection of the workload's own: the server may have closed its listener. A connection to a port of
// that range whose listener is closed cannot be told from the workload's own, and is left out. ephemeral is the range.
func inbound(all []socket, ephemeral portRange) []socket {
	listening := map[uint16]bool{}
	for _, s := range all {
		if s.state == tcpListen {
			listening[s.local.Port()] = true
		}
	}
	type pair struct{ a, b netip.AddrPort }
	ends := map[pair]bool{}
	for _, s := range all {
		ends[pair{s.local, s.remote}] = true
	}
	var out []socket
	for _, s := range all {
		served := listening[s.local.Port()] || !ephemeral.has(s.local.Port())
		if live(s) && served && !s.local.Addr().IsLoopback() && !ends[pair{s.remote, s.local}] {
			out = append(out, s)
		}
	}
	return out
}

// portRange holds the first and the last port of a range.
type portRange [2]uint16

func (r portRange) has(port uint16) bool { return r[0] <= port && port <= r[1] }

// ephemeralPorts returns the ports that the kernel chooses for connections of the calling thread's network namespace.
func ephemeralPorts() (portRange, error) {
	const setting = "ipv4/ip_local_port_range" // of IPv6 too
	text, err := os.ReadFile("/proc/sys/net/" + setting)
	if err != nil {
		return portRange{}, fmt.Errorf("sysctl net/%s: %w", setting, err)
	}
	var r portRange
	if _, err := fmt.Sscan(string(text), &r[0], &r[1]); err != nil {
		return portRange{}, fmt.Errorf("sysctl net/%s is %.40q, want two ports: %w", setting, text, err)
	}
	return r, nil
}

func live(s socket) bool { return s.state != tcpListen && s.state != tcpClose && s.state != timeWait }

// proxied reports whether a socket is Envoy's or weft tunnel's in a pod.
func proxied(s socket) bool {
	switch s.local.Port() {
	case portHTTP, portTCP, portTunnelOut, portIn, portHBONE, portTunnel:
		return true
	}
	return s.remote.Port() == portHBONE || s.remote.Port() == portTunnel
}

// destroy ends connections at once (SOCK_DESTROY): both ends see a reset; of UDP, the socket gets ECONNABORTED and has no
// peer any more. It returns how many were there.
func destroy(sockets []socket) (int, error) {
	var errs []error
	n := 0
	for _, s := range sockets {
		req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		req.AddData(&destroyRequest{s.protocol, s.diag})
		_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.ENOENT): // gone meanwhile
		case errors.Is(err, unix.EOPNOTSUPP):
			return n, fmt.Errorf("close connections: the kernel lacks CONFIG_INET_DIAG_DESTROY: %w", err)
		default:
			errs = append(errs, fmt.Errorf("close the connection %s - %s: %w", s.local, s.remote, err))
		}
	}
	return n, errors.Join(errs...)
}

// destroyRequest is struct inet_diag_req_v2 of linux/inet_diag.h. The cookie makes sure that no other socket is hit
// that got the same addresses meanwhile.
type destroyRequest struct {
	protocol uint8
	s        *netlink.Socket
}

const destroyRequestLen = 56

func (r *destroyRequest) Len() int { return destroyRequestLen }

func (r *destroyRequest) Serialize() []byte {
	b := make([]byte, destroyRequestLen)
	id := r.s.ID
	b[0], b[1] = r.s.Family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], 1<<r.s.State)
	binary.BigEndian.PutUint16(b[8:], id.SourcePort)
	binary.BigEndian.PutUint16(b[10:], id.DestinationPort)
	src, dst := id.Source, id.Destination
	if r.s.Family == unix.AF_INET {
		src, dst = src.To4(), dst.To4()
	}
	copy(b[12:28], src)
	copy(b[28:44], dst)
	binary.NativeEndian.PutUint32(b[44:], id.Interface)
	binary.NativeEndian.PutUint32(b[48:], id.Cookie[0])
	binary.NativeEndian.PutUint32(b[52:], id.Cookie[1])
	return b
}
