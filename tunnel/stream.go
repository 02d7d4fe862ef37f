package tunnel

import (
	"errors"
	"sync"
	"time"
)

// errApplication is the end of a stream whose application's connection was reset.
var errApplication = errors.New("application")

// errMemory is the end of a stream on a node where too much waits for applications.
var errMemory = errors.New("too many bytes wait for applications that do not read")

// stream is one application's connection in a session. Its fields are guarded by the session's lock, but for those that
// one goroutine alone uses.
type stream struct {
	session *session
	id      uint32
	app     *socket
	port    uint16   // of the application
	decided decision // of the policy, at the destination
	// clientPort is the client's, at the source, and reserved the socket that keeps it from being used otherwise, if there is
	// one.
	clientPort uint16
	reserved   *socket
	// opened is when the stream was opened, at the source, and zero when the peer has answered: with a window of 0, or more.
	opened time.Time
	// tentative is true, at the source, until the peer has answered a stream whose connection goes to another pod if it does
	// not: nothing is read from the connection, and the end of the stream does not touch it.
	tentative bool
	// ended is called once, when the stream has ended, by the goroutine that pumps.
	ended func(*stream)

	credit int       // bytes that the peer lets us send
	most   int       // the largest credit that there was: the peer's window is not smaller
	moved  sync.Cond // credit has grown, or the stream ended

	window  int       // bytes that we let the peer send
	left    int       // of window: what the peer has not used
	taken   int       // bytes that the application has taken and that were not granted again
	granted time.Time // when bytes were granted again

	queue  []byte // what the application has not taken
	held   int    // bytes in queue, and those that are being drained
	queued bool   // bytes go to the queue: a goroutine drains it, or the application is not connected yet

	gotFin, passedFin, sentFin bool
	dead                       bool
	failure                    error // why it was killed; nil if both directions were closed
	sent, received             uint64

	// Of the goroutine that reads the session's frames: what deliver writes.
	writing  [][]byte
	written  int
	writeErr error
	write    func(fd uintptr) bool
}

func newStream(s *session, id uint32, app *socket) *stream {
	st := &stream{session: s, id: id, app: app, credit: firstWindow, most: firstWindow, window: firstWindow, left: firstWindow}
	st.moved.L = &s.mu
	st.write = func(fd uintptr) bool {
		st.written, st.writeErr = writeParts(int(fd), st.writing)
		return true
	}
	return st
}

// answer notes that the peer has answered, by something else than a reset. The lock is held.
func (st *stream) answer() {
	st.opens()
	if st.tentative {
		st.tentative = false
		st.moved.Broadcast()
	}
}

// opens notes that no answer is waited for any more. The lock is held.
func (st *stream) opens() {
	if !st.opened.IsZero() {
		st.opened = time.Time{}
		st.session.opening--
	}
}

// awaitAnswer waits for the answer to a tentative stream, or its end, and reports whether the peer took it.
func (st *stream) awaitAnswer() bool {
	s := st.session
	s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	for st.tentative && !st.dead {
		st.moved.Wait()
	}
	return !st.tentative
}

// withdraw ends a stream that the peer has not answered.
func (st *stream) withdraw() {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.tentative {
		st.abort(reasonReset, errUnanswered)
	}
}

// kill ends a stream: the application's connection is closed, by an RST if reset is true. The lock is held. The goroutine
// that pumps closes the socket.
func (st *stream) kill(reset bool, why error) {
	if st.dead {
		return
	}
	st.dead = true
	if reset {
		st.failure = why
	}
	st.queue = nil
	st.session.remove(st)
	st.moved.Broadcast()
	if st.tentative {
		return
	}
	if reset {
		st.app.resetOnClose()
	}
	st.app.interrupt()
}

// fail kills a stream whose application's connection failed, and tells the peer.
func (st *stream) fail(why error) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	st.abort(reasonReset, why)
}

// abort kills a stream and tells the peer why. The lock is held.
func (st *stream) abort(r reason, why error) {
	if st.dead {
		return
	}
	st.kill(true, why)
	st.session.put(st.id, kindReset, int(r))
	st.session.tell()
}

// finish ends the stream when both directions are closed. The lock is held.
func (st *stream) finish() {
	if st.sentFin && st.passedFin {
		st.kill(false, nil)
	}
}

// connected starts a stream whose application was being connected.
func (st *stream) connected() {
	s := st.session
	s.mu.Lock()
	st.queued = false
	if len(st.queue) > 0 {
		st.queued = true
		go st.drain()
	}
	st.passFin()
	s.mu.Unlock()
	st.pump()
}

// traffic is what went through a stream when it has ended.
type traffic struct {
	sent, received uint64
	failure        error
	at             time.Time
}

func (st *stream) traffic() traffic {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	return traffic{sent: st.sent, received: st.received, failure: st.failure, at: time.Now()}
}
