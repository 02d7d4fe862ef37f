package tunnel

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// A connection of Envoy's may go to any of the endpoints that its header names. One that does not answer within attemptTimeout, or refuses, is
// left, and the next one is tried. Nothing is read from the client before an endpoint's application is connected, so no byte is
// sent twice. The last endpoint gets the time that the only one has.

// attemptTimeout bounds an attempt while there is another endpoint to try: as long as Envoy waits for one in the clear.
const attemptTimeout = time.Second

// arrival is a client's connection that has come, until it has a stream to an endpoint.
type arrival struct {
	app    *socket
	client netip.AddrPort
	target
	note  *noting
	timer *time.Timer // of an attempt that may end for another one

	mu   sync.Mutex
	st   *stream // nil while it waits for one
	over bool    // it failed, or the connection has gone to another endpoint
}

// target is where a connection is to go.
type target struct {
	to     netip.AddrPort
	others []netip.AddrPort // to be tried after to
	peer   model.Identity   // that must be there; "" for the one that is known of the address
}

var errOtherPeer = errors.New("another identity is at the address than Envoy expects")

func (p *pod) newArrival(app *socket, client netip.AddrPort, at target) *arrival {
	return &arrival{app: app, client: client, target: at, note: p.noting(time.Now(), "", client, at.to, true)}
}

// movable reports whether there is another endpoint to try.
func (a *arrival) movable() bool { return len(a.others) > 0 }

// expect notes who must be at the endpoint. It reports false if the connection has gone to another one.
func (a *arrival) expect(peer model.Identity) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.note.flow.Peer = peer
	}
	return !a.over
}

// open opens the attempt's stream in a session; nil if the connection has gone to another endpoint.
func (a *arrival) open(s *session) (st *stream, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil, nil
	}
	a.st, err = s.open(a.app, opening{port: a.to.Port(), clientPort: a.client.Port(), connected: a.movable()})
	return a.st, err
}

// leave ends an attempt that has no stream. It reports whether it did: the connection is the caller's then.
func (a *arrival) leave() (st *stream, left bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.st != nil || a.over {
		return a.st, false
	}
	a.over = true
	return nil, true
}

func (a *arrival) isOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// reset ends a connection that gets no stream.
func (a *arrival) reset(why error) {
	a.app.resetOnClose()
	a.app.close()
	a.note.end(traffic{failure: why, at: time.Now()})
}

// start looks for a stream for a connection. It does not wait.
func (p *pod) start(a *arrival) {
	if a.movable() {
		a.mu.Lock()
		a.timer = time.AfterFunc(attemptTimeout, func() { p.expire(a) })
		a.mu.Unlock()
	}
	for {
		r := p.routeTo(a.to.Addr())
		if r == nil {
			p.fail(a, errPodGone)
			return
		}
		if r.take(a) {
			return
		}
	}
}

// expire ends an attempt that took too long.
func (p *pod) expire(a *arrival) {
	switch st, left := a.leave(); {
	case left:
		p.tryNext(a, traffic{failure: errUnanswered, at: time.Now()})
	case st != nil:
		st.withdraw() // what carries it goes on
	}
}

// fail ends an attempt that gets no stream: the connection goes to the next endpoint, or is reset.
func (p *pod) fail(a *arrival, err error) {
	if _, left := a.leave(); !left {
		return
	}
	if a.movable() && !errors.Is(err, errPodGone) {
		p.tryNext(a, traffic{failure: err, at: time.Now()})
		return
	}
	a.reset(err)
	p.giveOutbound()
}

// tryNext goes on with the next endpoint.
func (p *pod) tryNext(a *arrival, failed traffic) {
	a.timer.Stop()
	a.note.end(failed)
	p.start(p.newArrival(a.app, a.client, target{to: a.others[0], others: a.others[1:], peer: a.peer}))
}
