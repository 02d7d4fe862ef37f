package transparency

import "golang.org/x/sys/unix"

// resets: RST at each phase, by either end.
func resets() []talk {
	return []talk{{
		name: "the server resets on accept",
		client: func(e *end) {
			e.readAll(e.connect())
		},
		server: func(e *end) { e.reset(e.accept()) },
	}, {
		name: "the client resets on connect",
		client: func(e *end) {
			c := e.connect()
			e.meet()
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the server resets in the middle of an answer",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.read(c, 1000)
			e.meet()
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 10)
			e.write(c, 1000)
			e.meet()
			e.reset(c)
		},
	}, {
		name: "the server resets after 8 MiB that were read",
		client: func(e *end) {
			c := e.connect()
			e.read(c, 8*mega)
			e.meet()
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 8*mega)
			e.meet()
			e.reset(c)
		},
	}, {
		name: "the client resets in the middle of a request",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1000)
			e.meet()
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1000)
			e.meet()
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the server resets with full buffers before a client that does not read",
		client: func(e *end) {
			c := e.connect()
			e.meet()
			e.readOf(c, e.swap(0))
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			sent := e.stuff(c)
			e.reset(c)
			e.swap(sent)
		},
	}, {
		name: "the client resets with full buffers before a server that does not read",
		client: func(e *end) {
			c := e.connect()
			sent := e.stuff(c)
			e.reset(c)
			e.swap(sent)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.readOf(c, e.swap(0))
			e.meet()
		},
	}, {
		name: "the client resets while the server writes",
		client: func(e *end) {
			c := e.connect()
			e.read(c, mega)
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			_, err := c.write(1<<30, piece)
			e.note("write until %s", errnoName(err))
			e.meet()
		},
	}, {
		name: "the server resets while the client writes",
		client: func(e *end) {
			c := e.connect()
			_, err := c.write(1<<30, piece)
			e.note("write until %s", errnoName(err))
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, mega)
			e.reset(c)
			e.meet()
		},
	}, {
		name: "the client resets after it closed its direction",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.closeWrite(c)
			e.meet()
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.meet()
			e.writeUntilError(c)
			e.meet()
		},
	}, {
		name: "the server resets after it closed its direction",
		client: func(e *end) {
			c := e.connect()
			e.readAll(c)
			e.meet()
			e.writeUntilError(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 10)
			e.closeWrite(c)
			e.meet()
			e.reset(c)
			e.meet()
		},
	}, {
		name: "the server resets after the client closed its direction",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.closeWrite(c)
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.readAll(c)
			e.reset(c)
		},
	}, {
		name: "the client resets after the server closed its direction",
		client: func(e *end) {
			c := e.connect()
			e.readAll(c)
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.write(c, 10)
			e.closeWrite(c)
			e.readAll(c)
			e.meet()
		},
	}, {
		name: "the client's events at a reset",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1)
			e.events(c, unix.POLLIN|unix.POLLRDHUP)
			e.note("SO_ERROR: %s", errnoName(e.soError(c)))
			e.readAll(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1)
			e.reset(c)
		},
	}, {
		name: "the server's events at a reset",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 1)
			e.meet()
			e.reset(c)
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 1)
			e.meet()
			e.events(c, unix.POLLIN|unix.POLLRDHUP)
			e.note("SO_ERROR: %s", errnoName(e.soError(c)))
			e.meet()
		},
	}, {
		name:   "nobody listens",
		client: func(e *end) { e.knock(0) },
	}, {
		name:   "nobody listens, and the client writes first",
		client: func(e *end) { e.knock(100) },
	}, {
		name: "nobody listens any more",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.read(c, 10)
			e.meet()
			e.meet()
			e.knock(0)
			e.write(c, 10)
			e.read(c, 10)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 10)
			e.write(c, 10)
			e.meet()
			e.deafen()
			e.meet()
			e.read(c, 10)
			e.write(c, 10)
		},
	}}
}
