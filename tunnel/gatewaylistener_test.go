package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/testenv"
)

// TestOnlyTheLoopbackSpeaksForGateways: a Gateway's address is one of the interface lo too, where the listener is. A tenant can
// make Envoy connect there by an endpoint, with a header of his own.
func TestOnlyTheLoopbackSpeaksForGateways(t *testing.T) {
	testenv.Root(t)
	gateway := netip.MustParseAddr("192.0.2.77")
	route := &netlink.Route{
		LinkIndex: 1, Dst: &net.IPNet{IP: gateway.AsSlice(), Mask: net.CIDRMask(32, 32)},
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL,
	}
	if err := netlink.RouteReplace(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.RouteDel(route); err != nil {
			t.Error(err)
		}
	})
	fd, port, err := listenOnLoopbackAt(0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newSocket(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	o, err := newOwn()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to   netip.Addr
		want error
	}{
		{gateway, errNotLoopback},
		{netip.MustParseAddr("127.0.0.1"), nil},
		{netip.MustParseAddr("127.7.7.7"), nil},
		{gateway, errNotLoopback},
	} {
		envoy, err := net.Dial("tcp", net.JoinHostPort(c.to.String(), strconv.Itoa(int(port))))
		if err != nil {
			t.Fatal(err)
		}
		fd, from, err := l.accept()
		if err != nil {
			t.Fatal(err)
		}
		app, err := newSocket(fd)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.peer(app, from); !errors.Is(err, c.want) {
			t.Errorf("a connection to %s: %v, want %v", c.to, err, c.want)
		}
		app.close()
		_ = envoy.Close()
	}
}
