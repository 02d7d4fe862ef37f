package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	// peerTimeout bounds the wait for the agent to say who is at an address.
	peerTimeout = time.Second
	dialTimeout = 5 * time.Second
	// refusedTimeout bounds how long a session is asked for again where nobody listens: while weft tunnel starts there.
	refusedTimeout = time.Second
	refusedPause   = 20 * time.Millisecond
)

// takeApplications accepts the connections of the pod's applications that the kernel leads here.
func (p *pod) takeApplications(l *socket, at netip.AddrPort) {
	v4 := at.Addr().Is4()
	p.acceptAll(l, func(fd int, from netip.AddrPort) {
		to, err := originalDestination(fd, v4)
		if err != nil {
			p.node.log.Debug("a connection that the kernel did not lead here", "pod", p.spec.Load().Key, "error", err)
			_ = unix.Close(fd)
			return
		}
		app, err := newSocket(fd)
		if err != nil {
			_ = unix.Close(fd)
			return
		}
		p.carry(app, from.Port(), to)
	})
}

// carry takes an application's connection to a pod at to.
func (p *pod) carry(app *socket, clientPort uint16, to netip.AddrPort) {
	if p.outbound.Add(1) > maxStreams {
		p.outbound.Add(-1)
		app.resetOnClose()
		app.close()
		return
	}
	defer p.outbound.Add(-1)
	note := p.noting(time.Now(), "", netip.AddrPortFrom(p.addressOf(to.Addr()), clientPort), to, true)
	st, err := p.openStream(app, clientPort, to, note)
	if err != nil {
		app.resetOnClose()
		app.close()
		note.end(traffic{failure: err, at: time.Now()})
		return
	}
	note.open()
	st.pump()
	note.end(st.traffic())
}

// addressOf is the pod's own address of a family.
func (p *pod) addressOf(family netip.Addr) netip.Addr {
	for _, a := range p.spec.Load().Addresses {
		if a.Is4() == family.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// openStream finds a session to the pod, or makes one.
func (p *pod) openStream(app *socket, clientPort uint16, to netip.AddrPort, note *noting) (*stream, error) {
	ctx, cancel := context.WithTimeout(p.node.ctx, peerTimeout)
	defer cancel()
	id, leaves, err := p.node.peerAt(ctx, to.Addr())
	if err != nil {
		return nil, err
	}
	note.flow.Peer = id
	for range 3 { // a session may end at the same moment
		var s *session
		if s, err = p.sessionTo(to.Addr(), id); err != nil {
			return nil, err
		}
		var st *stream
		if st, err = s.open(app, to.Port(), clientPort); err == nil {
			if leaves || p.reserves.Load() {
				p.reserve(st)
			}
			return st, nil
		}
	}
	return nil, err
}

func (p *pod) sessionTo(to netip.Addr, id model.Identity) (*session, error) {
	p.mu.Lock()
	r := p.routes[to]
	if r == nil && !p.closed {
		r = &route{pod: p, to: to}
		p.routes[to] = r
	}
	p.mu.Unlock()
	if r == nil {
		return nil, errPodGone
	}
	return r.session(id)
}

// dial makes a session to another pod, which must be who it is expected to be.
func (p *pod) dial(to netip.Addr, id model.Identity) (*session, time.Time, error) {
	cred, err := p.credentials()
	if err != nil {
		return nil, time.Time{}, err
	}
	c, err := p.ns.dialAgain(netip.AddrPortFrom(to, model.PortTunnel))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("connect to %s: %w", to, err)
	}
	ctx, cancel := context.WithTimeout(p.node.ctx, dialTimeout)
	defer cancel()
	t, err := secure(ctx, c, cred.dialling(id), true)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("handshake with %s: %w", to, err)
	}
	lowLatency(c)
	until := cred.certificate.Leaf.NotAfter
	if theirs := t.ConnectionState().PeerCertificates[0].NotAfter; theirs.Before(until) {
		until = theirs
	}
	session := newSession(t, to)
	session.memory = p.node.memory
	return session, until, nil
}

// dialAgain connects to another pod, and again for a while if nobody listens.
func (n *namespace) dialAgain(to netip.AddrPort) (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(refusedPause) {
		c, err := n.dialOnce(to)
		if !errors.Is(err, unix.ECONNREFUSED) || time.Since(began) > refusedTimeout {
			return c, err
		}
	}
}

func (n *namespace) dialOnce(to netip.AddrPort) (net.Conn, error) {
	s, err := n.dial(to)
	if err != nil {
		return nil, err
	}
	defer s.close()
	_ = s.file.SetWriteDeadline(time.Now().Add(dialTimeout))
	if err := s.awaitConnected(); err != nil {
		return nil, err
	}
	var fd int
	s.control(func(own int) { fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	return netConn(fd)
}

var errNobody = errors.New("nobody that can be authenticated is at the address")
