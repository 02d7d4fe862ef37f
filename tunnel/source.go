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
	// refusedTimeout bounds how long a session is asked for again where nobody listens: while weft tunnel starts there, and
	// while the pod gets its first identity. Its own node's kernel waits as long for its listeners.
	refusedTimeout = 2 * time.Second
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
		p.arrived(app, netip.AddrPortFrom(p.addressOf(to.Addr()), from.Port()), target{to: to})
	})
}

// arrived takes a client's connection to its target. It does not wait.
func (p *pod) arrived(app *socket, client netip.AddrPort, at target) {
	a := p.newArrival(app, client, at)
	if !p.takeOutbound() {
		a.reset(errTooMany)
		return
	}
	p.start(a)
}

// takeOutbound counts a connection of the pod's applications, and reports whether there is room for it.
func (p *pod) takeOutbound() bool {
	if p.outbound.Add(1) <= p.inbound.most && p.streams.take(1) {
		return true
	}
	p.outbound.Add(-1)
	return false
}

func (p *pod) giveOutbound() {
	p.outbound.Add(-1)
	p.streams.give(1)
}

// carry moves the bytes of an application's connection.
func (p *pod) carry(a *arrival, st *stream) {
	if a.movable() {
		if !st.awaitAnswer() {
			st.release()
			p.tryNext(a, st.traffic())
			return
		}
		a.timer.Stop()
	}
	a.note.open()
	st.pump()
	p.giveOutbound()
	a.note.end(st.traffic())
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

// routeTo gives the way to another pod; nil if this pod is gone.
func (p *pod) routeTo(to netip.Addr) *route {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	r := p.routes[to]
	if r == nil {
		r = &route{pod: p, to: to}
		p.routes[to] = r
	}
	return r
}

// dial makes a session to another pod, which must be who it is expected to be.
func (p *pod) dial(to netip.Addr, id model.Identity) (*session, time.Time, error) {
	cred, err := p.credentials()
	if err != nil {
		return nil, time.Time{}, err
	}
	c, err := p.ns.dialAgain(p.node.ctx, netip.AddrPortFrom(to, model.PortTunnel))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("connect to %s: %w", to, err)
	}
	ctx, cancel := context.WithTimeout(p.node.ctx, dialTimeout)
	defer cancel()
	t, err := secure(ctx, c, cred.dialling(id), true, p.node.handshakes)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("handshake with %s: %w", to, err)
	}
	lowLatency(c)
	until := cred.certificate.Leaf.NotAfter
	if theirs := t.ConnectionState().PeerCertificates[0].NotAfter; theirs.Before(until) {
		until = theirs
	}
	session := newSession(t, to)
	session.memory = p.memory
	return session, until, nil
}

// dialAgain connects to another pod, and again for a while if nobody listens.
func (n *namespace) dialAgain(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(refusedPause) {
		c, err := n.dialOnce(ctx, to)
		if !errors.Is(err, unix.ECONNREFUSED) || time.Since(began) > refusedTimeout || ctx.Err() != nil {
			return c, err
		}
	}
}

func (n *namespace) dialOnce(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	s, err := n.dial(to)
	if err != nil {
		return nil, err
	}
	defer s.close()
	_ = s.file.SetWriteDeadline(time.Now().Add(dialTimeout))
	defer context.AfterFunc(ctx, s.interrupt)()
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

var (
	errNobody  = errors.New("nobody that can be authenticated is at the address")
	errTooMany = errors.New("the pod has too many connections")
)
