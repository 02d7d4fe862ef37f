package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/weft-mesh/weft/internal/model"
)

// header is what Envoy writes, with values by type.
func header(t testing.TB, client string, values map[proxyproto.PP2Type]string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:80")))
	var all []proxyproto.TLV
	for kind, v := range values {
		all = append(all, proxyproto.TLV{Type: kind, Value: []byte(v)})
	}
	if err := h.SetTLVs(all); err != nil {
		t.Fatal(err)
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const testGateway = "spiffe://" + testDomain + "/ns/shop/sa/edge"

func whole(to string) map[proxyproto.PP2Type]string {
	return map[proxyproto.PP2Type]string{
		model.ProxyOwner: "gateway/shop/edge", model.ProxyIdentity: testGateway, model.ProxyDestination: to,
	}
}

func TestGatewayHeader(t *testing.T) {
	values := whole("10.1.0.2:9000")
	values[model.ProxyOthers] = "10.1.0.3:9000,db:9000,[fd01::2]:1,10.1.0.4:9000"
	in := bytes.NewReader(append(header(t, "192.0.2.7:4321", values), "payload"...))
	got, err := readGatewayHeader(in)
	want := gatewayHeader{
		client: netip.MustParseAddrPort("192.0.2.7:4321"), owner: "gateway/shop/edge", identity: testGateway,
		to:     netip.MustParseAddrPort("10.1.0.2:9000"),
		others: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.3:9000"), netip.MustParseAddrPort("[fd01::2]:1")}, // two at most
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if rest, _ := io.ReadAll(in); string(rest) != "payload" {
		t.Errorf("%q is left", rest)
	}
}

func TestGatewayHeaderRefused(t *testing.T) {
	missing := func(kind proxyproto.PP2Type) []byte {
		v := whole("10.1.0.2:9000")
		delete(v, kind)
		return header(t, "192.0.2.7:4321", v)
	}
	long := whole("10.1.0.2:9000")
	long[model.ProxyOwner] = strings.Repeat("x", maxGatewayHeader)
	good := header(t, "192.0.2.7:4321", whole("10.1.0.2:9000"))
	for name, in := range map[string][]byte{
		"nothing":           nil,
		"HTTP":              []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"version 1":         []byte("PROXY TCP4 192.0.2.7 10.1.0.2 4321 9000\r\n"),
		"cut":               good[:len(good)-1],
		"no Gateway":        missing(model.ProxyOwner),
		"no identity":       missing(model.ProxyIdentity),
		"no backend":        missing(model.ProxyDestination),
		"a backend by name": header(t, "192.0.2.7:4321", whole("db:9000")),
		"too long":          header(t, "192.0.2.7:4321", long),
	} {
		if h, err := readGatewayHeader(bytes.NewReader(in)); !errors.Is(err, errGatewayHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func FuzzGatewayHeader(f *testing.F) {
	f.Add(header(f, "192.0.2.7:4321", whole("10.1.0.2:9000")))
	f.Add(header(f, "[2001:db8::1]:1", whole("[fd01::2]:1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readGatewayHeader(bytes.NewReader(b))
		if err == nil && (h.owner == "" || h.identity == "" || !h.to.IsValid() || !h.client.IsValid() || len(h.others) > model.MaxProxyOthers) {
			t.Errorf("%+v", h)
		}
	})
}
