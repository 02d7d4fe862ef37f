package transparency

import "fmt"

// many: many connections, and what they do to each other.
func many() []talk {
	ask := func(e *end) {
		c := e.connect()
		e.write(c, 100)
		e.read(c, 100)
	}
	serve := func(n int) func(*end) {
		return func(e *end) {
			e.parallel(n, n, func(e *end) {
				c := e.acceptAny()
				e.read(c, 100)
				e.write(c, 100)
				e.readAll(c)
			})
		}
	}
	open := func(n int) talk {
		return talk{
			name: fmt.Sprint(n, " connections that are open at once"),
			client: func(e *end) {
				var all []*conn
				for range n {
					all = append(all, e.connect())
				}
				for _, c := range all {
					e.write(c, 100)
				}
				for _, c := range all {
					e.want(c, 100)
				}
			},
			server: serve(n),
		}
	}
	return []talk{open(30), open(1000), {
		name:   "500 connections one after the other",
		client: func(e *end) { e.parallel(500, 1, ask) },
		server: serve(500),
	}, {
		// A Gateway's listener has some 40 connections where open files are limited to 20,000, and those that are closing count.
		name:   "1000 connections, 5 at once",
		client: func(e *end) { e.parallel(1000, 5, ask) },
		server: serve(1000),
	}, {
		name:   "16 unread downloads beside small requests",
		client: func(e *end) { beside(e, func(*end, *conn) {}) },
		server: func(e *end) { besideServer(e, func(e *end, c *conn) { e.stuff(c) }) },
	}, {
		name:   "16 unread uploads beside small requests",
		client: func(e *end) { beside(e, func(e *end, c *conn) { e.stuff(c) }) },
		server: func(e *end) { besideServer(e, func(*end, *conn) {}) },
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
				c := e.acceptAny()
				e.readAll(c)
				e.write(c, 10)
			})
		},
	}, {
		name: "100 connections are accepted in order",
		client: func(e *end) {
			var all []*conn
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
		name: "50 resets hurt no other connection",
		client: func(e *end) {
			kept := e.connect()
			e.write(kept, nameSize)
			e.read(kept, nameSize)
			for range 50 {
				c := e.connect()
				e.write(c, 100)
				e.want(c, 100)
				e.reset(c)
			}
			e.meet()
			e.write(kept, 1000)
			e.closeWrite(kept)
			e.readAll(kept)
		},
		server: func(e *end) {
			kept := e.acceptAny()
			e.read(kept, nameSize)
			e.write(kept, nameSize)
			resets := e.start(50, 50, func(p *end) {
				c := p.acceptAny()
				p.read(c, 100)
				p.write(c, 100)
				p.readAll(c)
			})
			e.meet()
			e.readAll(kept)
			e.write(kept, 1000)
			resets()
		},
	}}
}

// beside holds 16 connections that move nothing, and makes requests on others.
func beside(e *end, block func(*end, *conn)) {
	hold(e, block, func() *conn {
		c := e.connect()
		e.write(c, nameSize)
		e.want(c, nameSize)
		return c
	})
	kept := e.connect()
	for range 20 {
		e.write(kept, 10)
		e.want(kept, 10)
		c := e.connect()
		e.write(c, 10)
		e.want(c, 10)
		e.close(c)
	}
	e.close(kept)
	e.meet()
}

// hold opens 16 connections, and lets block fill them.
func hold(e *end, block func(*end, *conn), open func() *conn) {
	var held []*conn
	for range 16 {
		held = append(held, open())
	}
	e.blockAll(held, block)
	e.meet()
}

func besideServer(e *end, block func(*end, *conn)) {
	hold(e, block, func() *conn {
		c := e.acceptAny()
		e.want(c, nameSize)
		e.write(c, nameSize)
		return c
	})
	requests := e.start(21, 21, func(p *end) {
		c := p.acceptAny()
		err := error(nil)
		for err == nil {
			// A request is ten bytes, and no byte of the next one comes before its answer.
			if _, err = (reader{c: c, size: 10}).Read(make([]byte, 10)); err == nil && c.at%10 == 0 {
				p.write(c, 10)
			}
		}
		p.note("%d bytes of requests%s, then %s", c.at, c.verdict(), errnoName(err))
	})
	e.meet()
	requests()
}

// blockAll lets all connections stall at the same time.
func (e *end) blockAll(held []*conn, block func(*end, *conn)) {
	next := make(chan *conn, len(held))
	for _, c := range held {
		next <- c
	}
	e.parallel(len(held), len(held), func(p *end) { block(p, <-next) })
}
