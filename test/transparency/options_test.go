package transparency

import (
	"errors"
	"os"
	"slices"
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
	sender := func(name string, send func(e *end, c *conn)) talk {
		return talk{name: name, server: whole, client: func(e *end) {
			c := e.connect()
			send(e, c)
			e.closeWrite(c)
			e.readAll(c)
		}}
	}
	return []talk{
		sender("sendfile", func(e *end, c *conn) {
			f, err := unix.MemfdCreate("bytes", unix.MFD_CLOEXEC)
			e.must("memfd", err)
			defer unix.Close(f)
			e.must("fill", fillFile(f, c.next(8*mega)))
			var at int64
			for at < 8*mega {
				_, err := again(func() (int, error) { return unix.Sendfile(c.fd, f, &at, 8*mega-int(at)) })
				e.must("sendfile", err)
			}
		}),
		sender("splice", func(e *end, c *conn) {
			r, w, err := os.Pipe()
			e.must("pipe", err)
			defer r.Close()
			go func() {
				defer w.Close()
				for range 8 * mega / piece {
					_, _ = w.Write(c.next(piece))
				}
			}()
			fd := int(r.Fd())
			for {
				n, err := again(func() (int64, error) { return unix.Splice(fd, nil, c.fd, nil, piece, unix.SPLICE_F_MORE) })
				e.must("splice", err)
				if n == 0 {
					return
				}
			}
		}),
		sender("MSG_MORE and TCP_CORK", func(e *end, c *conn) {
			e.must("TCP_CORK", unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1))
			for range 300 {
				b := c.next(6)
				_, err := again(func() (int, error) { return unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_MORE) })
				e.must("send", err)
			}
			e.must("TCP_CORK", unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_CORK, 0))
		}),
		sender("zero-length writes", func(e *end, c *conn) {
			for range 3 {
				_, err := unix.Write(c.fd, nil)
				e.must("write", err)
				_, err = unix.SendmsgN(c.fd, []byte{}, nil, nil, 0)
				e.must("send", err)
				e.write(c, 10)
			}
		}),
		sender("MSG_ZEROCOPY", func(e *end, c *conn) {
			e.must("SO_ZEROCOPY", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1))
			b := c.next(mega)
			for len(b) > 0 {
				n, err := again(func() (int, error) { return unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_ZEROCOPY) })
				e.must("send", err)
				b = b[n:]
			}
		}),
		{
			name: "fast open by sendto", server: whole,
			client: func(e *end) {
				c := e.socket(family(e.To.Addr()), 0)
				b := append(slices.Clone(e.Prelude), c.next(1000)...)
				_, err := again(func() (int, error) { return unix.SendmsgN(c.fd, b, nil, sockaddr(e.To), unix.MSG_FASTOPEN) })
				e.must("send", err)
				if len(e.Prelude) > 0 {
					e.mustGet(c, preludeAnswer)
				}
				e.closeWrite(c)
				e.readAll(c)
			},
		},
	}
}

func fillFile(f int, b []byte) error {
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
			c := e.socket(family(e.To.Addr()), 0)
			prepare(e, c.fd)
			e.connectOn(c)
			e.write(c, 100)
			e.closeWrite(c)
			e.readAll(c)
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
				e.must("SO_LINGER", unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 10}))
				e.write(c, mega)
				e.close(c)
			},
		},
		{
			name: "connect() without waiting", server: echo,
			client: func(e *end) {
				c := e.connectLater()
				e.events(c, unix.POLLOUT)
				e.note("SO_ERROR: %s", errnoName(e.soError(c)))
				e.must("O_NONBLOCK", unix.SetNonblock(c.fd, false))
				e.prelude(c)
				e.write(c, 100)
				e.closeWrite(c)
				e.readAll(c)
			},
		},
		{
			name: "connect() without waiting, and nobody listens",
			client: func(e *end) {
				c := e.connectLater()
				e.poll(c, unix.POLLOUT) // connect() has ended, well or not
				err := e.soError(c)
				e.must("O_NONBLOCK", unix.SetNonblock(c.fd, false))
				if err == nil {
					err = writeAll(c.fd, e.Prelude)
				}
				e.refused(c, err)
			},
		},
		{
			name: "connect() a second time", server: echo,
			client: func(e *end) {
				c := e.connect()
				e.note("again: %s", errnoName(unix.Connect(c.fd, sockaddr(e.To))))
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
				e.meet() // the bytes are there
				e.must("dissolve", dissolve(c.fd))
				c.name(int(e.made.Add(1)) - 1)
				e.connectOn(c)
				e.write(c, 100)
				e.closeWrite(c)
				e.readAll(c)
				e.meet()
			},
			server: func(e *end) {
				first := e.accept()
				e.read(first, 100)
				e.meet()
				e.readAll(first)
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
				c := e.socket(family(e.To.Addr()), unix.IPPROTO_MPTCP)
				e.connectOn(c)
				e.write(c, 100)
				e.closeWrite(c)
				e.readAll(c)
			},
		},
		{
			name: "urgent byte that is read in line", inline: true,
			client: func(e *end) {
				c := e.connect()
				e.write(c, 10)
				_, err := unix.SendmsgN(c.fd, c.next(1), nil, nil, unix.MSG_OOB)
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
			name: "urgent byte apart",
			client: func(e *end) {
				c := e.connect()
				e.write(c, 10)
				_, err := unix.SendmsgN(c.fd, []byte("!"), nil, nil, unix.MSG_OOB)
				e.must("send", err)
				e.write(c, 10)
				e.closeWrite(c)
				e.meet()
			},
			server: func(e *end) {
				c := e.accept()
				e.read(c, 10)
				e.poll(c, unix.POLLRDHUP) // all is there
				b := make([]byte, 2)
				n, _, _, _, err := unix.Recvmsg(c.fd, b, nil, unix.MSG_OOB|unix.MSG_DONTWAIT)
				e.note("urgent: %q %s", b[:max(n, 0)], errnoName(err))
				e.readAll(c)
				e.meet()
			},
		},
	}
}

// connectLater begins to connect.
func (e *end) connectLater() *conn {
	c := e.socket(family(e.To.Addr()), 0)
	e.must("O_NONBLOCK", unix.SetNonblock(c.fd, true))
	if err := unix.Connect(c.fd, sockaddr(e.To)); !errors.Is(err, unix.EINPROGRESS) {
		e.stop("connect: %s", errnoName(err))
	}
	return c
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
