package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	// sessionsPerRoute bounds the sessions between two pods. Another one is opened while bytes wait on all that there are.
	sessionsPerRoute = 4
	// idleSession ends sessions that carry no stream: they hold the network namespace of their pod.
	idleSession = time.Minute
)

// route is the way from a local pod to another pod's address: the sessions that it opened.
type route struct {
	pod *pod
	to  netip.Addr

	mu       sync.Mutex
	identity model.Identity // that the sessions were made with
	sessions []*used
	last     *session  // that the last stream was opened on
	dialling *dialling // nil while none is made
	queue    []*arrival
	serving  bool // somebody opens streams for what is queued
	closed   bool
}

// used is a session and until when it may carry new streams: until one of the certificates ends.
type used struct {
	*session
	until time.Time
	idle  time.Time // since when it has no stream; zero if it has some
}

// dialling is a session that is being made.
type dialling struct {
	done    chan struct{}
	session *session
	err     error
}

// session gives one that carries a stream to id, and makes one if there is none. It fails with errWait if that takes time
// and it may not wait.
func (r *route) session(id model.Identity, wait bool) (*session, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, errPodGone
	}
	if r.identity != id {
		r.identity = id
		for _, u := range r.sessions {
			u.retire()
		}
		r.dialling = nil // whose result is not for this identity
	}
	best, busy := r.best()
	if best == nil || busy && len(r.sessions) < sessionsPerRoute {
		d := r.dial()
		if best == nil {
			r.mu.Unlock()
			if !wait {
				return nil, errWait
			}
			<-d.done
			if d.err == nil {
				r.mu.Lock()
				r.last = d.session
				r.mu.Unlock()
			}
			return d.session, d.err
		}
	}
	r.last = best
	r.mu.Unlock()
	return best, nil
}

// best gives the session with the fewest streams, and whether bytes wait on all of them. While the destination has not
// answered the last stream that was opened, it is the same session: on another one the next stream might come first. A session
// whose peer is silent gets no stream until it is heard again.
func (r *route) best() (best *session, busy bool) {
	least, now := 0, time.Now()
	busy = true
	for _, u := range r.sessions {
		n, open, waits := u.state()
		if !open || now.After(u.until) || u.silence(now) > doubtAfter {
			continue
		}
		if u.session == r.last && u.isOpening() {
			return u.session, waits
		}
		if best == nil || busy && !waits || busy == waits && n < least {
			best, least, busy = u.session, n, waits
		}
	}
	return best, busy
}

// dial begins to make a session, unless one is being made. The lock is held.
func (r *route) dial() *dialling {
	if r.dialling != nil {
		return r.dialling
	}
	d := &dialling{done: make(chan struct{})}
	r.dialling = d
	id := r.identity
	go func() {
		defer close(d.done)
		if !r.pod.onNode.take(1) {
			d.err = errManySessions
			r.add(d, time.Time{})
			return
		}
		var until time.Time
		d.session, until, d.err = r.pod.dial(r.to, id)
		if !r.add(d, until) {
			r.pod.onNode.give(1)
		}
	}()
	return d
}

var errManySessions = errors.New("too many sessions of weft tunnel on this node")

// add puts a session to use, and reports whether it did.
func (r *route) add(d *dialling, until time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dialling == d {
		r.dialling = nil
	} else if d.err == nil {
		d.session.retire() // of an identity that is not expected any more
	}
	if d.err != nil {
		return false
	}
	if r.closed {
		d.session.end(errPodGone)
		d.session, d.err = nil, errPodGone
		return false
	}
	u := &used{session: d.session, until: until}
	r.sessions = append(r.sessions, u)
	go func() {
		err := u.run()
		r.remove(u)
		r.pod.onNode.give(1)
		r.pod.node.log.Debug("a session ended", "pod", r.pod.spec.Load().Key, "to", r.to, "reason", err)
	}()
	return true
}

func (r *route) remove(u *used) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, v := range r.sessions {
		if v == u {
			r.sessions = append(r.sessions[:i], r.sessions[i+1:]...)
			return
		}
	}
}

// retire makes the next stream use a new session.
func (r *route) retire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.sessions {
		u.retire()
	}
}

// tend ends sessions that carry nothing: at once if they may not carry more, else after a while. It reports whether the
// route is of no use any more.
func (r *route) tend(now time.Time) (unused bool) {
	r.mu.Lock()
	var end []*used
	for _, u := range r.sessions {
		n, open, _ := u.state()
		switch {
		case n > 0:
			u.idle = time.Time{}
		case !open || now.After(u.until):
			end = append(end, u)
		case u.idle.IsZero():
			u.idle = now
		case now.Sub(u.idle) > idleSession:
			end = append(end, u)
		}
	}
	all := slices.Clone(r.sessions) // sessions that end are removed meanwhile
	unused = len(all) == 0 && r.dialling == nil && !r.serving
	r.closed = r.closed || unused
	r.mu.Unlock()
	for _, u := range end {
		u.endUnused()
	}
	for _, u := range all {
		u.check(now)
	}
	return unused
}

func (r *route) close() {
	r.mu.Lock()
	all := slices.Clone(r.sessions)
	r.closed = true
	r.mu.Unlock()
	for _, u := range all {
		u.end(errPodGone)
	}
}
