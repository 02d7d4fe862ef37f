package transparency

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// talk is a case. Without a server nobody listens at its port.
type talk struct {
	name   string
	client func(*end)
	server func(*end)
	needs  string // what not every path has
	inline bool   // the server reads urgent bytes in line
	// ownSockets cases are about options and names of the ends' sockets. Behind a Gateway these are not each other's ends.
	ownSockets bool
}

const (
	needsIPv4 = "IPv4"
	// needsUrgent cases read an urgent byte apart from the others. On an authenticated connection it comes among them.
	needsUrgent = "urgent bytes"
)

// cases are all conversations, in a fixed order: each has a port of its own by its number.
var cases = func() []talk {
	var all []talk
	for _, group := range [][]talk{sizes(), ends(), resets(), slow(), styles(), senders()} {
		all = append(all, group...)
	}
	for _, group := range [][]talk{options(), names(), many()} {
		for _, c := range group {
			c.ownSockets = true
			all = append(all, c)
		}
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
func both(e *end, c, n int) {
	sent := make(chan error, 1)
	go func() {
		err := e.tryWrite(c, n, piece)
		if err == nil {
			err = unix.Shutdown(c, unix.SHUT_WR)
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
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 10)
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
			e.meet() // they are there
			e.readEnd(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1)
			e.meet()
			time.Sleep(100 * time.Millisecond)
			e.close(c)
		},
	}, {
		name: "the client closes with unread bytes",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 1)
			e.meet()
			time.Sleep(100 * time.Millisecond)
			e.close(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 5000)
			e.meet()
			e.readEnd(c)
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
			e.note("events:%s", eventNames(e.await(c, unix.POLLIN|unix.POLLRDHUP)))
			e.meet()
		},
	}, {
		name: "the client's events as its peer closes its direction",
		client: func(e *end) {
			c := e.connect()
			e.note("events:%s", eventNames(e.await(c, unix.POLLIN|unix.POLLRDHUP)))
			e.meet()
		},
		server: func(e *end) {
			e.closeWrite(e.accept())
			e.meet()
		},
	}}
}

// many: many connections, and what they do to each other.
func many() []talk {
	echo := func(e *end) {
		c := e.accept()
		e.read(c, 100)
		e.write(c, 100)
		e.readEnd(c)
	}
	ask := func(e *end) {
		c := e.connect()
		e.write(c, 100)
		e.read(c, 100)
	}
	serve := func(n int) func(*end) {
		return func(e *end) { e.parallel(n, n, echo) }
	}
	return []talk{{
		name:   "500 connections one after the other",
		client: func(e *end) { e.parallel(500, 1, ask) },
		server: serve(500),
	}, {
		name:   "1000 connections, 50 at once",
		client: func(e *end) { e.parallel(1000, 50, ask) },
		server: serve(1000),
	}, {
		name: "1000 connections that are open at once",
		client: func(e *end) {
			var all []int
			for range 1000 {
				all = append(all, e.connect())
			}
			for _, c := range all {
				if err := e.tryWrite(c, 100, 100); err != nil {
					e.fails("write", err)
				}
			}
			good := 0
			for _, c := range all {
				if _, n, _ := digest(reader{fd: c, size: 100}); n == 100 {
					good++
				}
			}
			e.note("%d were answered", good)
		},
		server: func(e *end) {
			e.parallel(1000, 1000, func(e *end) {
				c := e.accept()
				e.read(c, 100)
				e.write(c, 100)
			})
		},
	}, {
		name: "16 unread downloads beside small requests",
		client: func(e *end) {
			beside(e, func(*end, int) {})
		},
		server: func(e *end) {
			besideServer(e, func(e *end, c int) { e.fill(c) })
		},
	}, {
		name: "16 unread uploads beside small requests",
		client: func(e *end) {
			beside(e, func(e *end, c int) { e.fill(c) })
		},
		server: func(e *end) {
			besideServer(e, func(*end, int) {})
		},
	}, {
		name: "many to one: 32 uploads of 1 MiB at once",
		client: func(e *end) {
			e.parallel(32, 32, func(e *end) {
				c := e.connect()
				e.write(c, mega)
				e.closeWrite(c)
				e.readAll(c)
			})
		},
		server: func(e *end) {
			e.parallel(32, 32, func(e *end) {
				c := e.accept()
				e.readAll(c)
				e.write(c, 10)
			})
		},
	}, {
		name: "100 connections are accepted in order",
		client: func(e *end) {
			var all []int
			for range 100 {
				all = append(all, e.connect())
			}
			for i, c := range all {
				e.write(c, 1+i)
				e.closeWrite(c)
			}
			for _, c := range all {
				e.readAll(c)
			}
		},
		server: func(e *end) {
			for range 100 {
				e.readAll(e.accept())
			}
		},
	}, {
		name: "a reset hurts no other connection",
		client: func(e *end) {
			kept := e.connect()
			e.write(kept, 1)
			for range 50 {
				c := e.connect()
				e.write(c, 100)
				e.reset(c)
			}
			e.meet()
			e.write(kept, 1000)
			e.closeWrite(kept)
			e.readAll(kept)
		},
		server: func(e *end) {
			kept := e.accept()
			e.read(kept, 1)
			// Of connections that were reset at once some may never be seen here.
			e.meanwhile(func(p *end) {
				for {
					p.accept()
				}
			})
			e.meet()
			e.readAll(kept)
			e.write(kept, 1000)
		},
	}}
}

// beside holds 16 connections that move nothing, and makes requests on others.
func beside(e *end, block func(*end, int)) {
	var held []int
	for range 16 {
		c := e.connect()
		e.write(c, 1)
		held = append(held, c)
	}
	e.blockAll(held, block)
	e.meet()
	kept := e.connect()
	for range 20 {
		e.write(kept, 10)
		e.read(kept, 10)
		c := e.connect()
		e.write(c, 10)
		e.read(c, 10)
		e.close(c)
	}
	e.close(kept)
	e.meet()
}

func besideServer(e *end, block func(*end, int)) {
	var held []int
	for range 16 {
		c := e.accept()
		e.read(c, 1)
		held = append(held, c)
	}
	e.blockAll(held, block)
	e.meet()
	for range 21 {
		c := e.accept()
		e.meanwhile(func(p *end) {
			for {
				p.read(c, 10)
				p.write(c, 10)
			}
		})
	}
	e.meet()
}

// blockAll lets all connections stall at the same time.
func (e *end) blockAll(held []int, block func(*end, int)) {
	done := make(chan string, len(held))
	for _, c := range held {
		go func() { done <- (&end{order: e.order}).part(func(p *end) { block(p, c) }) }()
	}
	for range held {
		if notes := <-done; notes != "" {
			e.note("%s", notes)
		}
	}
}
