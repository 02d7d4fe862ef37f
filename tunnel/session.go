package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// outLimit is how much waits to be sent on a session before streams stop reading from their applications. It bounds
	// how long a small message waits behind large ones. outRoom is from how much on what one read gives has to wait too: many
	// streams with small messages must not keep it away.
	outLimit = 256 << 10
	outRoom  = 64 << 10
	// smallFlush is from how many bytes on a flush does not wait for other streams that have something to put. A system call
	// for each small message costs more than all else that is done with it.
	smallFlush = 16 << 10
	// sessionWindows bounds the windows of a session's streams beyond their first ones: what a peer may make this node
	// hold for applications that do not read.
	sessionWindows = 64 << 20

	// openTimeout bounds the wait for the peer's answer to an open frame. The peer answers before the application does.
	openTimeout = 10 * time.Second

	// pingAfter is the silence after which the peer is asked for an answer, and again.
	pingAfter = 30 * time.Second
	// doubtAfter is the silence after which streams are opened on another session, and a session without streams ends.
	doubtAfter = 45 * time.Second
	// deadAfter is the silence that ends a session and resets its streams. Without the mesh a connection survives an outage for
	// as long as TCP sends its bytes again: 924 s or more with the usual net.ipv4.tcp_retries2 of 15. A ping is such bytes, so TCP
	// decides for a session too, by the setting of the pod's namespace. What is left is a peer whose kernel answers for a weft
	// tunnel that does not.
	deadAfter = 16 * time.Minute
)

var (
	errClosed = errors.New("the session is closed")
	errSilent = errors.New("the peer does not answer")
	// errUnanswered is the end of a stream that the peer did not answer.
	errUnanswered = errors.New("the peer did not answer when the connection was opened")
)

// transport is an encrypted connection. Flush sends what Write has taken. RoundTrip is the shortest time to the peer and back
// that was seen, or 0.
type transport interface {
	io.ReadWriteCloser
	Flush() error
	RoundTrip() time.Duration
}

// session is a connection between two pods that carries streams. Who dialled opens them.
type session struct {
	conn transport
	// remote is the other pod's address.
	remote netip.Addr
	// accept takes a stream that the peer opens. It must not wait. Nil on the side that dialled.
	accept func(s *session, id uint32, o opening)

	memory    *podMemory
	wake      chan struct{} // the writer has something to do
	done      chan struct{} // closed when the session has ended
	gathered  gathered      // of the goroutine that reads
	began     time.Time     // with the monotonic clock: a step of the wall clock is no silence
	lastRead  atomic.Int64  // nanoseconds since began
	roundTrip atomic.Int64  // to the peer, nanoseconds

	mu       sync.Mutex // guards what follows, and the streams' fields
	room     sync.Cond  // out has become shorter, or the session ended
	out      []byte     // frames to be sent
	spare    []byte
	flushing bool
	streams  map[uint32]*stream
	lastID   uint32
	windows  int // granted beyond the first windows
	opening  int // streams that the peer has not answered
	leaving  bool
	left     time.Time // when the peer was told to open no more streams
	pinged   time.Time // when a silent peer was pinged last
	err      error
}

func newSession(conn transport, remote netip.Addr) *session {
	s := &session{
		conn: conn, remote: remote, memory: newMemory().newShare(), wake: make(chan struct{}, 1), done: make(chan struct{}),
		streams: map[uint32]*stream{}, began: time.Now(),
	}
	s.room.L = &s.mu
	return s
}

// run reads frames until the session ends, and gives the reason.
func (s *session) run() error {
	go s.write()
	err := s.readFrames()
	s.end(err)
	return err
}

// write sends what was put without a flush.
func (s *session) write() {
	for {
		select {
		case <-s.done:
			return
		case <-s.wake:
			s.flush()
		}
	}
}

// end closes the session and resets its streams.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	s.leaving = true
	for _, st := range s.streams {
		st.kill(true, errClosed)
	}
	s.room.Broadcast()
	close(s.done)
	s.mu.Unlock()
	_ = s.conn.Close()
}

// flush sends what was put, unless another goroutine does so. It waits for the network.
func (s *session) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing {
		return
	}
	s.flushing = true
	for len(s.out) > 0 && s.err == nil {
		if len(s.out) < smallFlush && len(s.streams) > 1 {
			s.mu.Unlock()
			runtime.Gosched() // others put what they have, and it goes with this
			s.mu.Lock()
		}
		out := s.out
		s.out, s.spare = s.spare[:0], nil
		s.mu.Unlock()
		_, err := s.conn.Write(out)
		if err == nil {
			err = s.conn.Flush()
		}
		s.mu.Lock()
		if cap(out) <= 2*outLimit {
			s.spare = out[:0]
		}
		s.room.Broadcast()
		if err != nil {
			s.mu.Unlock()
			s.end(fmt.Errorf("send: %w", err))
			s.mu.Lock()
		}
	}
	s.flushing = false
	if len(s.out) == 0 && cap(s.out) > 0 && len(s.streams) == 0 {
		s.out, s.spare = nil, nil // an idle session keeps no buffers
	}
}

// put appends a frame without payload. The lock is held.
func (s *session) put(stream uint32, k kind, value int) {
	s.out = appendHeader(s.out, stream, k, value)
}

// tell makes the writer send what was put. It does not wait. The lock may be held.
func (s *session) tell() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) handle(f frame) error {
	switch f.kind {
	case kindOpen:
		return s.opened(f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[f.stream]
	switch f.kind {
	case kindPing:
		s.put(0, kindPong, f.value)
		s.tell()
	case kindGoAway:
		s.leaving = true
	}
	if st == nil {
		return nil // it has ended here, and the peer does not know yet
	}
	if f.kind != kindReset {
		st.answer()
	}
	switch f.kind {
	case kindFin:
		st.gotFin = true
		st.passFin()
	case kindReset:
		st.kill(true, reason(f.value))
	case kindWindow:
		st.credit += f.value
		st.most = max(st.most, st.credit)
		st.moved.Signal()
	}
	return nil
}

func (s *session) opened(f frame) error {
	o, err := parseOpen(f.payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.accept == nil || f.stream <= s.lastID {
		s.mu.Unlock()
		return fmt.Errorf("%w: stream %d may not be opened", errProtocol, f.stream)
	}
	s.lastID = f.stream
	s.mu.Unlock()
	s.accept(s, f.stream, o)
	return nil
}

// refuse answers an open frame with a reset.
func (s *session) refuse(id uint32, why reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id, kindReset, int(why))
	s.tell()
}

// open makes a stream for an application's connection. The frame is sent with the first flush. If o.connected is true the
// stream leaves the connection alone until the peer has answered.
func (s *session) open(app *socket, o opening) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving || s.err != nil || s.lastID == 1<<32-1 {
		return nil, errClosed
	}
	s.lastID++
	st := newStream(s, s.lastID, app)
	st.clientPort, st.opened, st.tentative = o.clientPort, time.Now(), o.connected
	s.opening++
	s.streams[st.id] = st
	s.out = appendOpen(s.out, st.id, o)
	return st, nil
}

// remove forgets a stream. The lock is held.
func (s *session) remove(st *stream) {
	st.opens()
	delete(s.streams, st.id)
	s.windows -= st.window - firstWindow
	s.memory.windows.give(st.window - firstWindow)
	s.memory.queues.give(st.held)
	st.held = 0
}

// goAway tells the peer to open no more streams.
func (s *session) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	if s.left.IsZero() {
		s.left = time.Now()
	}
	s.put(0, kindGoAway, 0)
	s.tell()
}

// leftFor gives how long ago the peer was told to open no more streams; 0 if it was not.
func (s *session) leftFor(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left.IsZero() {
		return 0
	}
	return now.Sub(s.left)
}

// retire opens no more streams from here.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
}

// endUnused ends the session unless it carries a stream.
func (s *session) endUnused() {
	s.mu.Lock()
	unused := len(s.streams) == 0
	s.leaving = s.leaving || unused
	s.mu.Unlock()
	if unused {
		s.end(errClosed)
	}
}

// isOpening reports whether there is a stream that the peer has not answered.
func (s *session) isOpening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opening > 0
}

// state gives the number of streams, whether more may be opened, and whether bytes wait to be sent.
func (s *session) state() (streams int, open, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams), !s.leaving && s.err == nil, s.flushing && len(s.out) > 0
}

// check pings a silent peer, and ends the session with one that stays silent. It resets streams that the peer does not
// answer, and sends what nobody else has sent.
func (s *session) check(now time.Time) {
	s.mu.Lock()
	if s.opening > 0 {
		for _, st := range s.streams {
			if !st.opened.IsZero() && now.Sub(st.opened) > openTimeout {
				st.abort(reasonReset, errUnanswered)
				s.leaving = true
			}
		}
	}
	if len(s.out) > 0 {
		s.tell()
	}
	s.mu.Unlock()
	s.checkSilence(now)
}

// heard notes that the peer has sent something.
func (s *session) heard(now time.Time) { s.lastRead.Store(int64(now.Sub(s.began))) }

// silence gives for how long the peer has sent nothing.
func (s *session) silence(now time.Time) time.Duration {
	return now.Sub(s.began) - time.Duration(s.lastRead.Load())
}

func (s *session) checkSilence(now time.Time) {
	silence := s.silence(now)
	switch {
	case silence > deadAfter:
		s.end(errSilent)
		return
	case silence > doubtAfter:
		s.endUnused()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if silence > pingAfter && now.Sub(s.pinged) > pingAfter {
		s.pinged = now
		s.put(0, kindPing, 0)
		s.tell()
	}
}
