package transparency

import (
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// addresses: what the ends are told about their addresses.
func addresses() []talk {
	sockname := func(e *end, c *conn) (string, uint16) {
		sa, err := unix.Getsockname(c.fd)
		e.must("getsockname", err)
		return e.who(sa)
	}
	peername := func(e *end, c *conn) (string, uint16) {
		sa, err := unix.Getpeername(c.fd)
		e.must("getpeername", err)
		return e.who(sa)
	}
	server := func(e *end) {
		c := e.accept()
		own, port := sockname(e, c)
		peer, _ := peername(e, c)
		e.note("I am %s, port %t, and my peer is %s", own, port == e.Server, peer)
		e.meet()
	}
	return []talk{{
		name: "addresses of the ends", server: server,
		client: func(e *end) {
			c := e.connect()
			own, _ := sockname(e, c)
			peer, _ := peername(e, c)
			e.note("I am %s, and my peer is %s", own, peer)
			e.meet()
		},
	}, {
		name: "address that the client is bound to", server: server,
		client: func(e *end) {
			c := e.socket(family(e.To.Addr()), 0)
			e.must("bind", unix.Bind(c.fd, sockaddr(netip.AddrPortFrom(e.own(), 0))))
			e.connectOn(c)
			own, _ := sockname(e, c)
			e.note("I am %s", own)
			e.meet()
		},
	}, {
		name: "port that the client is bound to",
		client: func(e *end) {
			c := e.socket(family(e.To.Addr()), 0)
			e.must("SO_REUSEADDR", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			e.must("bind", unix.Bind(c.fd, sockaddr(netip.AddrPortFrom(e.unspecified(), e.Server+20000))))
			e.connectOn(c)
			_, port := sockname(e, c)
			e.note("my port is the one that I chose: %t", port == e.Server+20000)
			e.meet()
		},
		server: func(e *end) {
			_, port := peername(e, e.accept())
			e.note("the client's port is the one that it chose: %t", port == e.Server+20000)
			e.meet()
		},
	}, {
		name: "the port that each end knows of the client is the same",
		client: func(e *end) {
			c := e.connect()
			_, port := sockname(e, c)
			e.must("write", writeAll(c.fd, []byte{byte(port >> 8), byte(port)}))
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			b := make([]byte, 2)
			_, err := io.ReadFull(reader{c: c, raw: true}, b)
			e.must("read", err)
			_, port := peername(e, c)
			e.note("the client's port is what it said: %t", port == uint16(b[0])<<8|uint16(b[1]))
			e.meet()
		},
	}, {
		name: "IPv4 from an IPv6 socket", server: server, needs: needsIPv4,
		client: func(e *end) {
			c := e.socket(unix.AF_INET6, 0)
			e.connectOn6(c)
			own, _ := sockname(e, c)
			peer, _ := peername(e, c)
			e.note("I am %s, and my peer is %s", own, peer)
			e.meet()
		},
	}}
}

// own is this pod's address of the family that is spoken.
func (e *end) own() netip.Addr {
	name := "the server"
	if e.Client {
		name = "the client"
	}
	for a, n := range e.Names {
		if (n == name || n == thisPod) && a.Is4() == e.To.Addr().Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func (e *end) unspecified() netip.Addr {
	if e.To.Addr().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// connectOn6 connects an IPv6 socket to the mapped address.
func (e *end) connectOn6(c *conn) {
	mapped := netip.AddrPortFrom(netip.AddrFrom16(e.To.Addr().As16()), e.To.Port())
	_, err := again(func() (int, error) {
		return 0, unix.Connect(c.fd, &unix.SockaddrInet6{Addr: mapped.Addr().As16(), Port: int(mapped.Port())})
	})
	e.must("connect", err)
	e.prelude(c)
}
