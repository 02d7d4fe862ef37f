package transparency

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slow: readers and writers that take their time.
func slow() []talk {
	const pause = 4 * time.Millisecond
	return []talk{{
		name: "the server sends 32 MiB and closes, the client waits before it reads",
		client: func(e *end) {
			c := e.connect()
			e.meet()
			time.Sleep(time.Second)
			e.readAllFrom(reader{c: c, pause: pause})
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			e.write(c, 32*mega)
			e.close(c)
		},
	}, {
		name: "the client sends 32 MiB and closes, the server waits before it reads",
		client: func(e *end) {
			c := e.connect()
			e.meet()
			e.write(c, 32*mega)
			e.close(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			time.Sleep(time.Second)
			e.readAllFrom(reader{c: c, pause: pause})
			e.meet()
		},
	}, {
		name: "the client reads small pieces",
		client: func(e *end) {
			e.readAllFrom(reader{c: e.connect(), size: 1000, pause: time.Millisecond / 2})
		},
		server: func(e *end) { e.write(e.accept(), 512*kilo) },
	}, {
		name: "the client stops reading for a while",
		client: func(e *end) {
			c := e.connect()
			e.read(c, mega)
			time.Sleep(time.Second)
			e.readAll(c)
		},
		server: func(e *end) { e.write(e.accept(), 24*mega) },
	}, {
		name: "the server writes a piece every now and then",
		client: func(e *end) {
			e.readAll(e.connect())
		},
		server: func(e *end) {
			c := e.accept()
			for range 40 {
				e.write(c, 100)
				time.Sleep(20 * time.Millisecond)
			}
		},
	}, {
		name: "both write and do not read, then both read",
		client: func(e *end) {
			c := e.connect()
			sent := e.swap(e.stuff(c))
			e.closeWrite(c)
			e.readOf(c, sent)
		},
		server: func(e *end) {
			c := e.accept()
			sent := e.swap(e.stuff(c))
			e.closeWrite(c)
			e.readOf(c, sent)
		},
	}, {
		name: "the server accepts late",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1000)
			e.meet()
			e.read(c, 1000)
		},
		server: func(e *end) {
			e.meet()
			time.Sleep(700 * time.Millisecond)
			c := e.accept()
			e.read(c, 1000)
			e.write(c, 1000)
		},
	}, {
		name: "the server accepts after the client has sent 100,000 bytes and closed",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 100_000)
			e.close(c)
			e.meet()
			e.meet()
		},
		server: func(e *end) {
			e.meet()
			time.Sleep(300 * time.Millisecond)
			e.readAll(e.accept())
			e.meet()
		},
	}, {
		name: "nobody says anything for three seconds",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			time.Sleep(3 * time.Second)
			e.write(c, 10)
			e.read(c, 10)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 20)
			e.write(c, 10)
		},
	}, {
		name: "half closed for three seconds",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			time.Sleep(3 * time.Second)
			e.write(c, 10)
		},
	}, {
		name: "small buffers",
		client: func(e *end) {
			c := e.socket(family(e.To.Addr()), 0)
			e.must("SO_RCVBUF", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
			e.must("SO_SNDBUF", unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096))
			e.connectOn(c)
			both(e, c, mega)
		},
		server: func(e *end) { both(e, e.accept(), mega) },
	}}
}

// styles: who speaks when.
func styles() []talk {
	return []talk{{
		name: "the server speaks first",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 20)
			e.write(c, 10)
			e.read(c, 10)
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 20)
			e.read(c, 10)
			e.write(c, 10)
		},
	}, {
		name: "the client never writes",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 20)
			e.close(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 20)
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "500 questions and answers of one byte",
		client: func(e *end) {
			c := e.connect()
			pingPong(e, c, 500, 1)
		},
		server: func(e *end) { pongPing(e, e.accept(), 500, 1) },
	}, {
		name: "50 questions and answers of 64 KiB",
		client: func(e *end) {
			c := e.connect()
			pingPong(e, c, 50, 64*kilo)
		},
		server: func(e *end) { pongPing(e, e.accept(), 50, 64*kilo) },
	}, {
		name: "2000 writes of one byte without delay",
		client: func(e *end) {
			c := e.connect()
			e.must("TCP_NODELAY", unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
			_, err := c.write(2000, 1)
			e.must("write", err)
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.write(c, 1)
		},
	}, {
		name: "one write of 16 MiB",
		client: func(e *end) {
			c := e.connect()
			_, err := c.write(16*mega, 16*mega)
			e.must("write", err)
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.write(c, 1)
		},
	}, {
		name: "bytes of a TLS handshake, of HTTP/2 and of a proxy's header are bytes",
		client: func(e *end) {
			for _, text := range texts {
				c := e.connect()
				e.must("write", writeAll(c.fd, []byte(text)))
				e.closeWrite(c)
				e.readAll(c)
			}
		},
		server: func(e *end) {
			for _, text := range texts {
				c := e.accept()
				c.receives = strings.NewReader(text)
				e.readAll(c)
				e.write(c, 1)
				e.close(c)
			}
		},
	}}
}

// texts are beginnings of other protocols.
var texts = []string{
	"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "\r\n\r\n\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a",
}

func pingPong(e *end, c *conn, times, n int) {
	for range times {
		e.write(c, n)
		e.want(c, n)
	}
	e.closeWrite(c)
	e.readAll(c)
}

func pongPing(e *end, c *conn, times, n int) {
	for range times {
		e.want(c, n)
		e.write(c, n)
	}
	e.readAll(c)
}
