package transparency

import (
	"errors"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// senders: other ways than write to hand bytes to a socket.
func senders() []talk {
	whole := func(e *end) {
		c := e.accept()
		e.readAll(c)
		e.write(c, 1)
	}
	sender := func(name string, send func(e *end, c int)) talk {
		return talk{name: name, server: whole, client: func(e *end) {
			c := e.connect()
			send(e, c)
			e.closeWrite(c)
			e.readAll(c)
		}}
	}
	return []talk{
		sender("sendfile", func(e *end, c int) {
			f, err := unix.MemfdCreate("bytes", unix.MFD_CLOEXEC)
			e.must("memfd", err)
			defer unix.Close(f)
			e.must("fill", fillFile(f, e, 8*mega))
			var at int64
			for at < 8*mega {
				if _, err := again(func() (int, error) { return unix.Sendfile(c, f, &at, 8*mega-int(at)) }); err != nil {
					e.fails("sendfile", err)
				}
			}
		}),
		sender("splice", func(e *end, c int) {
			r, w, err := os.Pipe()
			e.must("pipe", err)
			defer r.Close()
			go func() {
				defer w.Close()
				b := make([]byte, piece)
				from := e.bytes()
				for range 8 * mega / piece {
					_, _ = from.Read(b)
					_, _ = w.Write(b)
				}
			}()
			fd := int(r.Fd())
			for {
				n, err := again(func() (int64, error) { return unix.Splice(fd, nil, c, nil, piece, unix.SPLICE_F_MORE) })
				if err != nil {
					e.fails("splice", err)
				}
				if n == 0 {
					return
				}
			}
		}),
		sender("MSG_MORE and TCP_CORK", func(e *end, c int) {
			e.must("TCP_CORK", unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_CORK, 1))
			for range 300 {
				_, err := again(func() (int, error) { return unix.SendmsgN(c, []byte("corked"), nil, nil, unix.MSG_MORE) })
				e.must("send", err)
			}
			e.must("TCP_CORK", unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_CORK, 0))
		}),
		sender("zero-length writes", func(e *end, c int) {
			for range 3 {
				_, err := unix.Write(c, nil)
				e.must("write", err)
				_, err = unix.SendmsgN(c, []byte{}, nil, nil, 0)
				e.must("send", err)
				e.write(c, 10)
			}
		}),
		sender("MSG_ZEROCOPY", func(e *end, c int) {
			e.must("SO_ZEROCOPY", unix.SetsockoptInt(c, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
			b := make([]byte, mega)
			_, _ = e.bytes().Read(b)
			for len(b) > 0 {
				n, err := again(func() (int, error) { return unix.SendmsgN(c, b, nil, nil, unix.MSG_ZEROCOPY) })
				e.must("send", err)
				b = b[n:]
			}
		}),
		{
			name: "fast open by sendto", server: whole,
			client: func(e *end) {
				fd := e.socket(family(e.To.Addr()), 0)
				b := make([]byte, 1000)
				_, _ = e.bytes().Read(b)
				_, err := again(func() (int, error) { return unix.SendmsgN(fd, b, nil, sockaddr(e.To), unix.MSG_FASTOPEN) })
				if err != nil {
					e.fails("send", err)
				}
				e.closeWrite(fd)
				e.readAll(fd)
			},
		},
	}
}

func fillFile(f int, e *end, n int) error {
	b := make([]byte, n)
	_, _ = e.bytes().Read(b)
	for len(b) > 0 {
		w, err := unix.Write(f, b)
		if err != nil {
			return err
		}
		b = b[w:]
	}
	return nil
}

// options of sockets.
func options() []talk {
	echo := func(e *end) {
		c := e.accept()
		e.readAll(c)
		e.write(c, 100)
	}
	option := func(name string, prepare func(e *end, fd int)) talk {
		return talk{name: name, server: echo, client: func(e *end) {
			fd := e.socket(family(e.To.Addr()), 0)
			prepare(e, fd)
			e.connectOn(fd)
			e.write(fd, 100)
			e.closeWrite(fd)
			e.readAll(fd)
		}}
	}
	return []talk{
		option("SO_BINDTODEVICE", func(e *end, fd int) {
			e.must("SO_BINDTODEVICE", unix.BindToDevice(fd, "eth0"))
		}),
		option("TCP_FASTOPEN_CONNECT", func(e *end, fd int) {
			e.must("TCP_FASTOPEN_CONNECT", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1))
		}),
		option("SO_KEEPALIVE and TCP_USER_TIMEOUT", func(e *end, fd int) {
			e.must("SO_KEEPALIVE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
			e.must("TCP_KEEPIDLE", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1))
			e.must("TCP_USER_TIMEOUT", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5000))
		}),
		{
			name: "SO_LINGER waits for what was sent", server: echo,
			client: func(e *end) {
				c := e.connect()
				e.must("SO_LINGER", unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 10}))
				e.write(c, mega)
				e.close(c)
			},
		},
		{
			name: "connect() without waiting", server: echo,
			client: func(e *end) {
				fd := e.socket(family(e.To.Addr()), 0)
				e.must("O_NONBLOCK", unix.SetNonblock(fd, true))
				if err := unix.Connect(fd, sockaddr(e.To)); !errors.Is(err, unix.EINPROGRESS) {
					e.note("connect: %s", errnoName(err))
				}
				e.note("events:%s", eventNames(e.await(fd, unix.POLLOUT)))
				no, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
				e.must("SO_ERROR", err)
				e.note("SO_ERROR: %d", no)
				e.must("O_NONBLOCK", unix.SetNonblock(fd, false))
				e.write(fd, 100)
				e.closeWrite(fd)
				e.readAll(fd)
			},
		},
		{
			name: "connect() without waiting, and nobody listens",
			client: func(e *end) {
				fd := e.socket(family(e.To.Addr()), 0)
				e.must("O_NONBLOCK", unix.SetNonblock(fd, true))
				if err := unix.Connect(fd, sockaddr(e.To)); !errors.Is(err, unix.EINPROGRESS) {
					e.note("connect: %s", errnoName(err))
					return
				}
				_ = e.await(fd, unix.POLLOUT)
				no, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
				e.must("SO_ERROR", err)
				if no != 0 {
					e.note("connect: %s", unix.ErrnoName(unix.Errno(no)))
					return
				}
				e.must("O_NONBLOCK", unix.SetNonblock(fd, false))
				e.readEnd(fd)
			},
		},
		{
			name: "connect() a second time", server: echo,
			client: func(e *end) {
				c := e.connect()
				e.note("again: %s", errnoName(unix.Connect(c, sockaddr(e.To))))
				e.write(c, 100)
				e.closeWrite(c)
				e.readAll(c)
			},
		},
		{
			name: "a socket that is dissolved and connected anew",
			client: func(e *end) {
				c := e.connect()
				e.write(c, 100)
				if err := dissolve(c); err != nil {
					e.fails("dissolve", err)
				}
				e.connectOn(c)
				e.write(c, 100)
				e.closeWrite(c)
				e.readAll(c)
				e.meet()
			},
			server: func(e *end) {
				first := e.accept()
				e.readEnd(first)
				second := e.accept()
				e.readAll(second)
				e.write(second, 100)
				e.close(second)
				e.meet()
			},
		},
		{
			name: "MPTCP", server: echo,
			client: func(e *end) {
				fd := e.socket(family(e.To.Addr()), unix.IPPROTO_MPTCP)
				e.connectOn(fd)
				e.write(fd, 100)
				e.closeWrite(fd)
				e.readAll(fd)
			},
		},
		{
			name: "urgent byte that is read in line", inline: true,
			client: func(e *end) {
				c := e.connect()
				e.write(c, 10)
				_, err := unix.SendmsgN(c, []byte("!"), nil, nil, unix.MSG_OOB)
				e.must("send", err)
				e.write(c, 10)
				e.closeWrite(c)
				e.readAll(c)
			},
			server: func(e *end) {
				c := e.accept()
				e.readAll(c)
				e.write(c, 100)
			},
		},
		{
			name: "urgent byte apart", needs: needsUrgent,
			client: func(e *end) {
				c := e.connect()
				e.write(c, 10)
				_, err := unix.SendmsgN(c, []byte("!"), nil, nil, unix.MSG_OOB)
				e.must("send", err)
				e.meet()
				e.meet()
			},
			server: func(e *end) {
				c := e.accept()
				e.read(c, 10)
				e.meet()
				time.Sleep(100 * time.Millisecond)
				b := make([]byte, 2)
				n, _, _, _, err := unix.Recvmsg(c, b, nil, unix.MSG_OOB|unix.MSG_DONTWAIT)
				e.note("urgent: %q %s", b[:max(n, 0)], errnoName(err))
				e.meet()
			},
		},
	}
}

// names: what the ends are told about their addresses.
func names() []talk {
	sockname := func(e *end, fd int) (string, uint16) {
		sa, err := unix.Getsockname(fd)
		e.must("getsockname", err)
		return e.who(sa)
	}
	peername := func(e *end, fd int) (string, uint16) {
		sa, err := unix.Getpeername(fd)
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
			fd := e.socket(family(e.To.Addr()), 0)
			e.must("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(e.own(), 0))))
			e.connectOn(fd)
			own, _ := sockname(e, fd)
			e.note("I am %s", own)
			e.meet()
		},
	}, {
		name: "port that the client is bound to",
		client: func(e *end) {
			fd := e.socket(family(e.To.Addr()), 0)
			e.must("SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			e.must("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(e.unspecified(), e.Server+20000))))
			e.connectOn(fd)
			_, port := sockname(e, fd)
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
			e.must("write", writeAll(c, []byte{byte(port >> 8), byte(port)}))
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			b := make([]byte, 2)
			if n, err := again(func() (int, error) { return unix.Read(c, b) }); err != nil || n < 2 {
				e.fails("read", err)
			}
			_, port := peername(e, c)
			e.note("the client's port is what it said: %t", port == uint16(b[0])<<8|uint16(b[1]))
			e.meet()
		},
	}, {
		name: "IPv4 from an IPv6 socket", server: server, needs: needsIPv4,
		client: func(e *end) {
			fd := e.socket(unix.AF_INET6, 0)
			e.connectOn6(fd)
			own, _ := sockname(e, fd)
			peer, _ := peername(e, fd)
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
		if n == name && a.Is4() == e.To.Addr().Is4() {
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
func (e *end) connectOn6(fd int) {
	mapped := netip.AddrPortFrom(netip.AddrFrom16(e.To.Addr().As16()), e.To.Port())
	_, err := again(func() (int, error) {
		return 0, unix.Connect(fd, &unix.SockaddrInet6{Addr: mapped.Addr().As16(), Port: int(mapped.Port())})
	})
	if err != nil {
		e.fails("connect", err)
	}
}

// dissolve ends the association of a socket, which can be connected again then.
func dissolve(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}
