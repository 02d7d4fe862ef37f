package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const handshakeTimeout = 10 * time.Second

// takeSessions accepts the sessions that other pods open, until the listener is interrupted.
func (p *pod) takeSessions(l *socket, at netip.AddrPort) {
	p.acceptAll(l, func(fd int, from netip.AddrPort) {
		c, err := netConn(fd)
		if err != nil {
			return
		}
		p.handshakes.add(from.Addr(), c)
		go p.session(c, at.Addr(), from.Addr())
	})
}

// acceptAll accepts connections until the listener is interrupted. serve must not wait.
func (p *pod) acceptAll(l *socket, serve func(fd int, from netip.AddrPort)) {
	acceptor{log: p.node.log.With("pod", p.spec.Load().Key), serve: serve, closed: p.isClosed}.acceptAll(l)
}

// acceptor accepts connections.
type acceptor struct {
	log    *slog.Logger
	serve  func(fd int, from netip.AddrPort) // must not wait
	closed func() bool                       // reports whether what has come is not taken any more
}

func (a acceptor) acceptAll(l *socket) {
	for {
		fd, from, err := l.accept()
		switch {
		case err == nil:
			a.serve(fd, from)
			// One at a time, as Envoy accepts them: a pod that connects in a flood would else fill the run queues, and what
			// serves its neighbours would wait behind all of that.
			runtime.Gosched()
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
			if !a.closed() {
				a.acceptRest(l)
			}
			return
		case errors.Is(err, unix.ECONNABORTED):
		default: // out of descriptors or memory
			a.log.Warn("a connection cannot be accepted", "error", err)
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// acceptRest takes what has come before a listener closes.
func (a acceptor) acceptRest(l *socket) {
	l.control(func(own int) {
		for {
			fd, sa, err := unix.Accept4(own, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			a.serve(fd, addrPort(sa))
		}
	})
}

func (s *socket) accept() (fd int, from netip.AddrPort, err error) {
	werr := s.raw.Read(func(l uintptr) bool {
		var sa unix.Sockaddr
		for {
			if fd, sa, err = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		from = addrPort(sa)
		return !errors.Is(err, unix.EAGAIN)
	})
	if werr != nil {
		err = werr
	}
	return fd, from, err
}

// netConn makes a connection of the net package of a socket, which it owns.
func netConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// session makes the handshake with another pod and serves its streams.
func (p *pod) session(c net.Conn, local, remote netip.Addr) {
	v, s, err := p.greet(c, remote)
	if err != nil {
		p.handshakes.done(remote, c)
		p.node.log.Debug("a session was refused", "pod", p.spec.Load().Key, "from", remote, "error", err)
		return
	}
	s.accept = func(s *session, id uint32, o opening) { p.opened(s, v, id, remote, local, o) }
	p.mu.Lock()
	p.handshakes.done(remote, c)
	if p.closed || !p.admit(s, v) {
		p.mu.Unlock()
		s.end(errPodGone)
		return
	}
	drained := !p.drainedAt.IsZero()
	p.mu.Unlock()
	if drained {
		s.goAway()
	}
	err = s.run()
	p.dismiss(s, v)
	p.node.log.Debug("a session ended", "pod", p.spec.Load().Key, "peer", v.identity, "reason", err)
}

func (p *pod) greet(c net.Conn, remote netip.Addr) (*visitor, *session, error) {
	cred, err := p.credentials()
	// A peer may know of the pod before its certificate is here.
	for began := time.Now(); err != nil && time.Since(began) < refusedTimeout; time.Sleep(refusedPause) {
		cred, err = p.credentials()
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(p.node.ctx, handshakeTimeout)
	defer cancel()
	t, err := secure(ctx, c, cred.accepting(), false, p.node.handshakes)
	if err != nil {
		return nil, nil, err
	}
	lowLatency(c)
	s := newSession(t, remote)
	s.memory = p.memory
	state := t.ConnectionState()
	return &visitor{identity: peerIdentity(state), until: state.PeerCertificates[0].NotAfter}, s, nil
}

// lowLatency keeps what waits in the kernel to be sent short, so that small messages do not wait behind it.
func lowLatency(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128<<10) })
		}
	}
}

// opened connects a stream to the application. It does not wait.
func (p *pod) opened(s *session, v *visitor, id uint32, remote, local netip.Addr, o opening) {
	began, from, to := time.Now(), netip.AddrPortFrom(remote, o.clientPort), netip.AddrPortFrom(local, o.port)
	if began.After(v.until.Add(expiredTime)) || s.leftFor(began) > expiredTime {
		s.refuse(id, reasonDenied)
		return
	}
	if !p.takeInbound(v.guest) {
		s.refuse(id, reasonLimit)
		return
	}
	note := p.noting(began, v.identity, from, to, false)
	d := decide(p.policy.Load(), v.identity, to.Port())
	app, err := p.reach(d, from, to)
	if err != nil {
		p.giveInbound(v.guest)
		why := refusal(err)
		s.refuse(id, why)
		note.end(traffic{failure: why, at: time.Now()})
		return
	}
	s.mu.Lock()
	st := newStream(s, id, app)
	st.port, st.decided, st.queued = to.Port(), d, true
	st.ended = func(st *stream) {
		p.giveInbound(v.guest)
		note.end(st.traffic())
	}
	s.streams[id] = st
	if !o.connected {
		s.put(id, kindWindow, 0)
	}
	// The policy that decided may have been replaced before the stream was there to be judged again.
	if decide(p.policy.Load(), v.identity, to.Port()) != d {
		st.abort(reasonDenied, reasonDenied)
	}
	s.mu.Unlock()
	go p.serve(st, note, o.connected)
}

// serve waits until the application is connected, answers then if it is to, and moves its bytes.
func (p *pod) serve(st *stream, note *noting, answers bool) {
	s := st.session
	if err := st.app.awaitConnected(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.mu.Lock()
		why := refusal(err)
		st.abort(why, why)
		s.mu.Unlock()
	} else if err == nil {
		note.open()
		if answers {
			s.mu.Lock()
			s.put(st.id, kindWindow, 0)
			s.tell()
			s.mu.Unlock()
		}
	}
	st.connected()
}

// refusal is what the peer is told of an error.
func refusal(err error) reason {
	var r reason
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, unix.ECONNREFUSED):
		return reasonRefused
	}
	return reasonReset
}

// reach begins to connect to the application. The kernel of the source leads connections to Envoy where a policy looks at
// requests; one that came here was opened before it knew.
func (p *pod) reach(d decision, from, to netip.AddrPort) (*socket, error) {
	switch d {
	case carried:
		return p.ns.connect(from, to)
	case inspected:
		return nil, fmt.Errorf("port %d: %w", to.Port(), reasonRequests)
	}
	return nil, fmt.Errorf("port %d: %w", to.Port(), reasonDenied)
}
