// Package connlimit bounds the connections of a server that anybody may reach, and divides them by the addresses of clients.
package connlimit

import (
	"cmp"
	"net"
	"net/netip"
	"sync"
)

// Listen bounds the open connections of l: most of all clients, and each of one address. One that is over the bound of its
// address is reset. One that comes while there are most takes the place of the latest of the address that has the most, so that
// no client keeps others out; it is reset itself if its own address has as many. Clients whose address l cannot say count as one.
func Listen(l net.Listener, most, each int) net.Listener {
	return &listener{Listener: l, most: most, each: each, of: map[netip.Addr][]*conn{}}
}

type listener struct {
	net.Listener
	most, each int

	mu  sync.Mutex
	all int
	of  map[netip.Addr][]*conn // open, the latest last
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		admitted, evicted := l.admit(c)
		for _, c := range evicted {
			reset(c)
		}
		if admitted != nil {
			return admitted, nil
		}
		reset(c)
	}
}

// admit counts a connection, or returns nil. What is evicted is no longer counted.
func (l *listener) admit(c net.Conn) (admitted *conn, evicted []*conn) {
	from := source(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.of[from]) >= l.each {
		return nil, nil
	}
	if l.all >= l.most {
		greedy := l.greediest()
		has := l.of[greedy]
		if len(has) <= len(l.of[from])+1 {
			return nil, nil
		}
		last := has[len(has)-1]
		l.remove(last)
		evicted = append(evicted, last)
	}
	admitted = &conn{Conn: c, in: l, from: from}
	l.of[from] = append(l.of[from], admitted)
	l.all++
	return admitted, evicted
}

// greediest returns the address with the most connections.
func (l *listener) greediest() netip.Addr {
	var out netip.Addr
	for a, has := range l.of {
		if n := cmp.Compare(len(has), len(l.of[out])); n > 0 || n == 0 && a.Less(out) {
			out = a
		}
	}
	return out
}

// remove is idempotent. The caller holds mu.
func (l *listener) remove(c *conn) {
	if c.removed {
		return
	}
	c.removed = true
	has := l.of[c.from]
	for i := len(has) - 1; i >= 0; i-- {
		if has[i] == c {
			has = append(has[:i], has[i+1:]...)
			break
		}
	}
	if l.all--; len(has) == 0 {
		delete(l.of, c.from)
		return
	}
	l.of[c.from] = has
}

type conn struct {
	net.Conn
	in      *listener
	from    netip.Addr
	removed bool // guarded by in.mu
}

func (c *conn) Close() error {
	c.in.mu.Lock()
	c.in.remove(c)
	c.in.mu.Unlock()
	return c.Conn.Close()
}

// NetConn returns the connection without its bound.
func (c *conn) NetConn() net.Conn { return c.Conn }

// reset ends a connection without leaving anything in the kernel.
func reset(c net.Conn) {
	if own, ok := c.(*conn); ok {
		c = own.Conn
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func source(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
