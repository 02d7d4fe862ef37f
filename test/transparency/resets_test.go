package transparency

import (
	"time"

	"golang.org/x/sys/unix"
)

// resets: RST at each phase, by either end.
func resets() []talk {
	return []talk{{
		name: "the server resets on accept",
		client: func(e *end) {
			c := e.connect()
			e.readEnd(c)
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
			e.meet()
			e.readEnd(c)
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			e.fill(c)
			e.reset(c)
			e.meet()
		},
	}, {
		name: "the client resets with full buffers before a server that does not read",
		client: func(e *end) {
			c := e.connect()
			e.fill(c)
			e.reset(c)
			e.meet()
			e.meet()
		},
		server: func(e *end) {
			c := e.accept()
			e.meet()
			e.readEnd(c)
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
			e.writeEnds(e.tryWrite(c, 1<<30, piece))
			e.meet()
		},
	}, {
		name: "the server resets while the client writes",
		client: func(e *end) {
			c := e.connect()
			e.writeEnds(e.tryWrite(c, 1<<30, piece))
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
			e.note("events:%s", eventNames(e.await(c, unix.POLLIN|unix.POLLRDHUP)))
			no, err := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_ERROR)
			e.must("SO_ERROR", err)
			e.note("SO_ERROR: %s", unix.ErrnoName(unix.Errno(no)))
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
			e.note("events:%s", eventNames(e.await(c, unix.POLLIN|unix.POLLRDHUP)))
			no, err := unix.GetsockoptInt(c, unix.SOL_SOCKET, unix.SO_ERROR)
			e.must("SO_ERROR", err)
			e.note("SO_ERROR: %s", unix.ErrnoName(unix.Errno(no)))
			e.meet()
		},
	}, {
		name: "nobody listens",
		client: func(e *end) {
			c := e.connect()
			e.readEnd(c)
		},
	}, {
		name: "nobody listens, and the client writes first",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 100)
			e.readEnd(c)
		},
	}, {
		name: "nobody listens any more",
		client: func(e *end) {
			c := e.connect()
			e.write(c, 10)
			e.read(c, 10)
			e.meet()
			e.meet()
			fd := e.socket(family(e.To.Addr()), 0)
			if err := connectTo(fd, e.To); err != nil {
				e.note("a second connection: %s", errnoName(err))
			} else {
				e.readEnd(fd)
			}
			e.write(c, 10)
			e.read(c, 10)
		},
		server: func(e *end) {
			c := e.accept()
			e.read(c, 10)
			e.write(c, 10)
			e.meet()
			e.close(e.listen)
			time.Sleep(50 * time.Millisecond)
			e.meet()
			e.read(c, 10)
			e.write(c, 10)
		},
	}}
}
