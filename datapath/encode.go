package datapath

import (
	"encoding/binary"
	"net/netip"

	"github.com/weft-mesh/weft/internal/model"
)

// encodeAddr gives an address as the maps have it: 16 bytes, IPv4 as ::ffff:a.b.c.d.
func encodeAddr(a netip.Addr) weftAddress {
	b := a.As16()
	var out weftAddress
	for i := range out.Ip {
		out.Ip[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return out
}

func decodeAddr(a weftAddress) netip.Addr {
	var b [16]byte
	for i, w := range a.Ip {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// encodePort gives a port in network byte order.
func encodePort(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func encode(a netip.AddrPort) weftEndpoint {
	return weftEndpoint{Addr: encodeAddr(a.Addr()), Port: encodePort(a.Port())}
}

// decode gives the zero AddrPort for a zero endpoint.
func decode(e weftEndpoint) netip.AddrPort {
	if e == (weftEndpoint{}) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(decodeAddr(e.Addr), encodePort(e.Port))
}

func encodeFrontend(a netip.AddrPort, p model.Protocol) weftFrontendKey {
	return weftFrontendKey{Addr: encodeAddr(a.Addr()), Port: encodePort(a.Port()), Proto: uint8(p)}
}

func encodePath(s string) (weftPath, bool) {
	var out weftPath
	if len(s) >= len(out.Name) {
		return out, false
	}
	for i := range len(s) {
		out.Name[i] = int8(s[i])
	}
	return out, true
}

func decodePath(p weftPath) string {
	var b []byte
	for _, c := range p.Name {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
