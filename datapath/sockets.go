package datapath

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sockdiag"
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

// inbound finds connections that peers outside of the namespace made. Their other end is not in this namespace, as it is
// for Envoy's connections to the workload. Their local port is one that is listened on, or one that the kernel would not
// have chosen for a connection of the workload's own: the server may have closed its listener. A connection to a port of
// that range whose listener is closed cannot be told from the workload's own, and is left out. ephemeral is the range.
func inbound(all []sockdiag.Socket, ephemeral portRange) []sockdiag.Socket {
	listening := map[uint16]bool{}
	for _, s := range all {
		if s.State == sockdiag.Listening {
			listening[s.Local.Port()] = true
		}
	}
	type pair struct{ a, b netip.AddrPort }
	ends := map[pair]bool{}
	for _, s := range all {
		ends[pair{s.Local, s.Remote}] = true
	}
	var out []sockdiag.Socket
	for _, s := range all {
		served := listening[s.Local.Port()] || !ephemeral.has(s.Local.Port())
		if s.Live() && served && !s.Local.Addr().IsLoopback() && !ends[pair{s.Remote, s.Local}] {
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

// proxied reports whether a socket is Envoy's or weft tunnel's in a pod.
func proxied(s sockdiag.Socket) bool {
	switch s.Local.Port() {
	case portHTTP, portTCP, portTunnelOut, model.PortDetect, model.PortSNI, portIn, portHBONE, portTunnel:
		return true
	}
	return s.Remote.Port() == portHBONE || s.Remote.Port() == portTunnel
}
