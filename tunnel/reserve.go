package tunnel

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// A client's connection to weft tunnel has its port at the loopback address, and the application at the destination sees
// it at the pod's address. While authenticated bytes go by the tunnel nothing else uses the port at the pod's address to
// connect to that application. When the client or the destination leaves the mesh, the client connects directly: its kernel
// might pick the port of a stream, and at the destination the two connections would have the same ends. So the ports of the
// streams that live on are reserved then. Not earlier: a port that was reserved once is not used for other connections
// until the last socket of the port is gone, those in TIME_WAIT too.

// reservePorts reserves the ports of the streams to an address, or of all streams if it is the zero Addr.
func (p *pod) reservePorts(to netip.Addr) {
	for _, st := range p.streamsTo(to) {
		p.reserve(st)
	}
}

func (p *pod) streamsTo(to netip.Addr) []*stream {
	p.mu.Lock()
	var routes []*route
	for address, r := range p.routes {
		if !to.IsValid() || address == to {
			routes = append(routes, r)
		}
	}
	p.mu.Unlock()
	var all []*stream
	for _, r := range routes {
		r.mu.Lock()
		for _, u := range r.sessions {
			u.mu.Lock()
			for _, st := range u.streams {
				all = append(all, st)
			}
			u.mu.Unlock()
		}
		r.mu.Unlock()
	}
	return all
}

// reserve keeps the client's port of a stream from being used by a direct connection. Where something is bound to it
// already, the kernel does not pick it either.
func (p *pod) reserve(st *stream) {
	own := p.addressOf(st.session.remote)
	if !own.IsValid() || st.clientPort == 0 {
		return
	}
	held, err := p.ns.bind(netip.AddrPortFrom(own, st.clientPort))
	if err != nil {
		return
	}
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.dead || st.reserved != nil {
		held.close()
		return
	}
	st.reserved = held
}

// release gives up the port of a stream that has ended.
func (st *stream) release() {
	s := st.session
	s.mu.Lock()
	reserved := st.reserved
	s.mu.Unlock()
	if reserved != nil {
		reserved.close()
	}
}

// bind makes a socket that does nothing but have an address and port.
func (n *namespace) bind(at netip.AddrPort) (s *socket, err error) {
	err = n.do(func() error {
		fd, err := unix.Socket(familyOf(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, sockaddr(at)); err != nil {
			_ = unix.Close(fd)
			return err
		}
		s, err = newSocket(fd)
		return err
	})
	return s, err
}
