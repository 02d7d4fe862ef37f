package capture

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Flow is one direction of a TCP connection.
type Flow struct{ From, To netip.AddrPort }

// Traffic is what was captured: TCP payload by flow, in order of arrival.
type Traffic struct {
	Packets   int // of any kind
	streams   map[Flow][]byte
	size      int
	truncated bool
}

func newTraffic() *Traffic { return &Traffic{streams: map[Flow][]byte{}} }

// add takes an Ethernet frame. What is not TCP over IP only counts.
func (t *Traffic) add(frame []byte) {
	t.Packets++
	flow, payload, ok := parse(frame)
	if !ok {
		return
	}
	if t.size += len(payload); t.size > maxBytes {
		t.truncated = true
		return
	}
	t.streams[flow] = append(t.streams[flow], payload...)
}

// Contains reports whether any flow carried these bytes, across packets too.
func (t *Traffic) Contains(what string) bool {
	for _, s := range t.streams {
		if bytes.Contains(s, []byte(what)) {
			return true
		}
	}
	return false
}

// Between gives the payload bytes that passed between two addresses, in both directions, by the lower of each
// connection's two port numbers: the service's, as clients' ports are high.
func (t *Traffic) Between(a, b netip.Addr) map[uint16]int {
	out := map[uint16]int{}
	for f, s := range t.streams {
		if from, to := f.From.Addr(), f.To.Addr(); (from == a && to == b || from == b && to == a) && len(s) > 0 {
			out[min(f.From.Port(), f.To.Port())] += len(s)
		}
	}
	return out
}

// TLSOnly reports whether every flow between two addresses begins with a TLS handshake record (RFC 8446, 5.1).
func (t *Traffic) TLSOnly(a, b netip.Addr) bool {
	for f, s := range t.streams {
		from, to := f.From.Addr(), f.To.Addr()
		if !(from == a && to == b || from == b && to == a) || len(s) == 0 {
			continue
		}
		// Flows that began before the capture start with application data.
		if len(s) < 3 || s[0] < 20 || s[0] > 23 || s[1] != 3 {
			return false
		}
	}
	return true
}

const (
	etherLen   = 14
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	ipv4MinLen = 20
	ipv6Len    = 40
	tcpMinLen  = 20
	protoTCP   = 6
)

// parse finds the TCP payload of an Ethernet frame (RFC 894, 791, 8200, 9293). IPv6 extension headers and fragments
// are not looked into: pods on a veth send none.
func parse(frame []byte) (Flow, []byte, bool) {
	if len(frame) < etherLen {
		return Flow{}, nil, false
	}
	src, dst, segment, ok := parseIP(binary.BigEndian.Uint16(frame[12:]), frame[etherLen:])
	if !ok || len(segment) < tcpMinLen {
		return Flow{}, nil, false
	}
	offset := int(segment[12]>>4) * 4
	if offset < tcpMinLen || offset > len(segment) {
		return Flow{}, nil, false
	}
	return Flow{
		From: netip.AddrPortFrom(src, binary.BigEndian.Uint16(segment)),
		To:   netip.AddrPortFrom(dst, binary.BigEndian.Uint16(segment[2:])),
	}, segment[offset:], true
}

func parseIP(ether uint16, p []byte) (src, dst netip.Addr, segment []byte, ok bool) {
	switch {
	case ether == etherIPv4 && len(p) >= ipv4MinLen:
		header, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		if total == 0 {
			total = len(p) // a packet of more than 64 KiB by segmentation offload
		}
		if p[0]>>4 != 4 || p[9] != protoTCP || header < ipv4MinLen || total < header || total > len(p) {
			return src, dst, nil, false
		}
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), p[header:total], true
	case ether == etherIPv6 && len(p) >= ipv6Len:
		total := ipv6Len + int(binary.BigEndian.Uint16(p[4:]))
		if total == ipv6Len {
			total = len(p)
		}
		if p[0]>>4 != 6 || p[6] != protoTCP || total > len(p) {
			return src, dst, nil, false
		}
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), p[ipv6Len:total], true
	}
	return src, dst, nil, false
}
