package tunnel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/pires/go-proxyproto"

	"github.com/weft-mesh/weft/internal/model"
)

// gatewayHeader is what Envoy says of a connection, by version 2 of the PROXY protocol. See
// https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt.
type gatewayHeader struct {
	client   netip.AddrPort   // 0.0.0.0:0 where the connection carries the requests of several
	owner    string           // whose it is: <namespace>/<pod>, or gateway/<namespace>/<name>
	identity model.Identity   // the owner's
	to       netip.AddrPort   // the endpoint
	others   []netip.AddrPort // of its backend, to be tried where it does not answer
	peer     model.Identity   // that the endpoints must have; "" for the one that is known of each
}

// target is where a connection is to go.
func (h *gatewayHeader) target() target { return target{to: h.to, others: h.others, peer: h.peer} }

const (
	proxyPrefixLen   = 16
	maxGatewayHeader = 4096
)

var errGatewayHeader = errors.New("no header of a connection of Envoy's")

// readGatewayHeader reads the header and no byte of what follows.
func readGatewayHeader(r io.Reader) (gatewayHeader, error) {
	b := make([]byte, proxyPrefixLen, maxGatewayHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return gatewayHeader{}, fmt.Errorf("%w: %w", errGatewayHeader, err)
	}
	if !bytes.HasPrefix(b, proxyproto.SIGV2) {
		return gatewayHeader{}, errGatewayHeader
	}
	whole := proxyPrefixLen + int(binary.BigEndian.Uint16(b[proxyPrefixLen-2:]))
	if whole > maxGatewayHeader {
		return gatewayHeader{}, fmt.Errorf("%w: %d bytes", errGatewayHeader, whole)
	}
	b = b[:whole]
	if _, err := io.ReadFull(r, b[proxyPrefixLen:]); err != nil {
		return gatewayHeader{}, fmt.Errorf("%w: %w", errGatewayHeader, err)
	}
	return parseGatewayHeader(b)
}

func parseGatewayHeader(b []byte) (h gatewayHeader, err error) {
	p, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return h, fmt.Errorf("%w: %w", errGatewayHeader, err)
	}
	source, _, ok := p.TCPAddrs()
	if !ok {
		return h, fmt.Errorf("%w: it names no client", errGatewayHeader)
	}
	h.client = source.AddrPort()
	h.client = netip.AddrPortFrom(h.client.Addr().Unmap(), h.client.Port())
	values, err := p.TLVs()
	if err != nil {
		return h, fmt.Errorf("%w: %w", errGatewayHeader, err)
	}
	for _, v := range values {
		switch v.Type {
		case model.ProxyOwner:
			h.owner = string(v.Value)
		case model.ProxyIdentity:
			h.identity = model.Identity(v.Value)
		case model.ProxyDestination:
			h.to, _ = netip.ParseAddrPort(string(v.Value))
		case model.ProxyOthers:
			h.others = parseOthers(string(v.Value))
		case model.ProxyPeer:
			h.peer = model.Identity(v.Value)
		}
	}
	if h.owner == "" || h.identity == "" || !h.to.IsValid() {
		return h, fmt.Errorf("%w: it does not name an owner, its identity and an endpoint", errGatewayHeader)
	}
	return h, nil
}

// parseOthers reads endpoints that are separated by commas: the first model.MaxProxyOthers of those that are valid.
func parseOthers(s string) (others []netip.AddrPort) {
	for text := range strings.SplitSeq(s, ",") {
		if a, err := netip.ParseAddrPort(text); err == nil && len(others) < model.MaxProxyOthers {
			others = append(others, a)
		}
	}
	return others
}
