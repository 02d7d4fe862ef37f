package transparency

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// talk is a case. Without a server nobody listens at its port.
type talk struct {
	name   string
	client func(*end)
	server func(*end)
	needs  string // what not every path has
	inline bool   // the server reads urgent bytes in line
}

const needsIPv4 = "IPv4"

// cases are all conversations, in a fixed order: each has a port of its own by its number.
var cases = func() []talk {
	var all []talk
	for _, group := range [][]talk{sizes(), ends(), resets(), slow(), styles(), senders(), options(), addresses(), many()} {
		all = append(all, group...)
	}
	return all
}()

func findCase(name string) talk {
	for _, c := range cases {
		if c.name == name {
			return c
		}
	}
	panic("no case " + name)
}

const (
	kilo = 1 << 10
	mega = 1 << 20
)

func size(n int) string {
	switch {
	case n >= mega && n%mega == 0:
		return fmt.Sprintf("%d MiB", n/mega)
	case n >= kilo && n%kilo == 0:
		return fmt.Sprintf("%d KiB", n/kilo)
	}
	return fmt.Sprintf("%d bytes", n)
}

// sizes: one end sends so much and closes.
func sizes() (out []talk) {
	for _, n := range []int{0, 1, 1460, 64 * kilo, mega, 17 * mega, 64 * mega} {
		out = append(out, talk{
			name: "the server sends " + size(n) + " and closes",
			client: func(e *end) {
				e.readAll(e.connect())
			},
			server: func(e *end) {
				c := e.accept()
				e.write(c, n)
				e.close(c)
			},
		}, talk{
			name: "the client sends " + size(n) + " and closes",
			client: func(e *end) {
				c := e.connect()
				e.write(c, n)
				e.close(c)
				e.meet()
			},
			server: func(e *end) {
				e.readAll(e.accept())
				e.meet()
			},
		})
	}
	return append(out, talk{
		name: "both send 8 MiB and close their directions",
		client: func(e *end) {
			both(e, e.connect(), 8*mega)
		},
		server: func(e *end) {
			both(e, e.accept(), 8*mega)
		},
	})
}

// both sends while it receives.
func both(e *end, c *conn, n int) {
	sent := make(chan error, 1)
	go func() {
		_, err := c.write(n, piece)
		if err == nil {
			err = unix.Shutdown(c.fd, unix.SHUT_WR)
		}
		sent <- err
	}()
	e.readAll(c)
	e.note("sent: %s", errnoName(<-sent))
}

// ends: who closes what first.
func ends() []talk {
	return []talk{{
		name: "the client closes its direction, then 8 MiB come back",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1000)
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.write(c, 8*mega)
		},
	}, {
		name: "the server closes its direction first, then 2 MiB come",
		client: func(e *end) {
			c := e.connect()
			e.readAll(c)
			e.write(c, 2*mega)
			e.closeWrite(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 3)
			e.closeWrite(c)
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the server closes its direction without a byte, then 2 MiB come",
		client: func(e *end) {
			c := e.connect()
			e.readAll(c)
			e.write(c, 2*mega)
			e.closeWrite(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.closeWrite(c)
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the client closes its direction without a byte, then 2 MiB come back",
		client: func(e *end) {
			c := e.connect()
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.write(c, 2*mega)
		},
	}, {
		name: "both close their directions without a byte",
		client: func(e *end) {
			c := e.connect()
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.closeWrite(c)
			e.readAll(c)
		},
	}, {
		name: "the server closes on accept",
		client: func(e *end) {
			e.readAll(e.connect())
		},
		server: func(e *end) { e.close(e.accept()) },
	}, {
		name: "the client closes on connect",
		client: func(e *end) {
			e.close(e.connect())
			e.meet()
		},
		server: func(e *end) {
			e.readAll(e.accept())
			e.meet()
		},
	}, {
		name: "the server closes while the client goes on writing",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.readAll(c)
			e.writeUntilError(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 10)
			e.close(c)
		},
	}, {
		name: "the client closes while the server goes on writing",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 10)
			e.close(c)
			e.meet()
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 10)
			e.meet() // with a byte unread the client's close would be a reset
			e.writeUntilError(c)
			e.meet()
		},
	}, {
		name: "both directions are closed by one shutdown",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 100)
			e.shutdown(c, unix.SHUT_RDWR)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.writeUntilError(c)
			e.meet()
		},
	}, {
		name: "the client shuts its reading down",
		client: func(e *end) {
			c := e.connect()
			e.shutdown(c, unix.SHUT_RD)
			e.write(c, 100)
			e.closeWrite(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the server closes with unread bytes",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 5000)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1)
			e.arrived(c, 4999)
			e.close(c)
		},
	}, {
		name: "the client closes with unread bytes",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 1)
			e.arrived(c, 4999)
			e.close(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 5000)
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the server's events as its peer closes its direction",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1)
			e.meet()
			e.closeWrite(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1)
			e.meet()
			e.events(c, unix.POLLIN|unix.POLLRDHUP)
			e.meet()
		},
	}, {
		name: "the client's events as its peer closes its direction",
		client: func(e *end) {
			c := e.connect()
			e.events(c, unix.POLLIN|unix.POLLRDHUP)
			e.meet()
		},
		server: func(e *end) {
			e.closeWrite(e.accept())
			e.meet()
		},
	}}
}
