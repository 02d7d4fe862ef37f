package tunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstWindow is how many bytes an end may send before the other end's application has read any. A window grows while
	// the application reads as fast as bytes come.
	firstWindow = 64 << 10
	maxWindow   = 2 << 20
	// readSize is how much is read from an application at once.
	readSize = 64 << 10
)

// errApplication is the end of a stream whose application's connection was reset.
var errApplication = errors.New("application")

// errMemory is the end of a stream on a node where too much waits for applications.
var errMemory = errors.New("too many bytes wait for applications that do not read")

var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

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
	// ended is called once, when the stream has ended, by the goroutine that pumps.
	ended func(*stream)

	credit int       // bytes that the peer lets us send
	moved  sync.Cond // credit has grown, or the stream ended

	window  int  // bytes that we let the peer send
	left    int  // of window: what the peer has not used
	taken   int  // bytes that the application has taken and that were not granted again
	stalled bool // the application did not take all that came, since the last grant

	queue  []byte // what the application has not taken
	held   int    // bytes in queue, and those that are being drained
	queued bool   // bytes go to the queue: a goroutine drains it, or the application is not connected yet

	gotFin, passedFin, sentFin bool
	dead                       bool
	failure                    error // why it was killed; nil if both directions were closed
	sent, received             uint64

	// Of the goroutine that reads the session's frames: what deliver writes.
	writing  []byte
	written  int
	writeErr error
	write    func(fd uintptr) bool
}

func newStream(s *session, id uint32, app *socket) *stream {
	st := &stream{session: s, id: id, app: app, credit: firstWindow, window: firstWindow, left: firstWindow}
	st.moved.L = &s.mu
	st.write = func(fd uintptr) bool {
		st.written, st.writeErr = write(int(fd), st.writing)
		return true
	}
	return st
}

// answer notes that the peer has answered. The lock is held.
func (st *stream) answer() {
	if !st.opened.IsZero() {
		st.opened = time.Time{}
		st.session.opening--
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
		st.app.resetOnClose()
	}
	st.queue = nil
	st.session.remove(st)
	st.moved.Broadcast()
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

// pump sends what the application writes until the stream ends, and then closes the application's connection.
func (st *stream) pump() {
	err := st.send()
	if err == nil { // the application has closed its direction: what is left to see is a reset
		if err = st.app.awaitFailure(); err != nil {
			err = fmt.Errorf("%w: %w", errApplication, err)
		}
	}
	if err != nil {
		st.fail(err)
	}
	s := st.session
	s.mu.Lock()
	for !st.dead {
		st.moved.Wait()
	}
	reserved := st.reserved
	s.mu.Unlock()
	st.app.close()
	if reserved != nil {
		reserved.close()
	}
	if st.ended != nil {
		st.ended(st)
	}
}

// send reads the application to its end, nil. The frame that opens the stream, or answers that, goes with the first bytes if
// there are some. The answer has time until then, or until the session is checked.
func (st *stream) send() error {
	s := st.session
	first := true
	for {
		most := st.awaitCredit()
		if most == 0 {
			return nil
		}
		buf, n, err := st.receive(most, func() {
			if first && s.accept == nil {
				first = false
				s.flush()
			}
		})
		first = false
		switch {
		case errors.Is(err, io.EOF):
			s.mu.Lock()
			if !st.dead {
				s.put(st.id, kindFin, 0)
				st.sentFin = true
				st.finish()
			}
			s.mu.Unlock()
			s.flush()
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil // it was killed
		case err != nil:
			return fmt.Errorf("%w: %w", errApplication, err)
		}
		alive := st.putData(buf[:n])
		buffers.Put(buf)
		if !alive {
			return nil
		}
		s.flush()
	}
}

// awaitCredit waits until the stream may send, and gives how much; 0 if it has ended.
func (st *stream) awaitCredit() int {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !st.dead && st.credit == 0 {
		st.moved.Wait()
	}
	if st.dead {
		return 0
	}
	return min(st.credit, readSize)
}

// receive reads from the application. A buffer is held only while there is something to read. waits is called before it
// waits.
func (st *stream) receive(most int, waits func()) (buf *[readSize]byte, n int, err error) {
	rerr := st.app.raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[readSize]byte)
		n, err = read(int(fd), buf[:most])
		if errors.Is(err, unix.EAGAIN) {
			buffers.Put(buf)
			waits()
			return false
		}
		return true
	})
	switch {
	case rerr != nil:
		return nil, 0, rerr
	case err == nil && n == 0:
		err = io.EOF
	}
	if err != nil {
		buffers.Put(buf)
	}
	return buf, n, err
}

// putData puts bytes into frames when the session has room, and reports whether the stream still lives.
func (st *stream) putData(b []byte) bool {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for !st.dead && len(s.out) > outLimit {
		s.room.Wait()
	}
	if st.dead {
		return false
	}
	st.credit -= len(b)
	st.sent += uint64(len(b))
	for len(b) > 0 {
		n := min(len(b), maxData)
		s.put(st.id, kindData, n)
		s.out = append(s.out, b[:n]...)
		b = b[n:]
	}
	return true
}

// deliver hands bytes to the application: at once if it takes them, else by a queue. It is called by the goroutine that
// reads the session, and does not wait.
func (s *session) deliver(id uint32, b []byte) error {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil {
		s.mu.Unlock()
		return nil
	}
	if st.left -= len(b); st.left < 0 || st.gotFin {
		s.mu.Unlock()
		return fmt.Errorf("%w: bytes that were not asked for", errProtocol)
	}
	st.answer()
	st.received += uint64(len(b))
	if st.queued {
		st.enqueue(b)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	st.writing, st.written, st.writeErr = b, 0, nil
	err := st.app.raw.Write(st.write)
	st.writing = nil
	if err == nil {
		err = st.writeErr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.dead {
		return nil
	}
	if err != nil {
		st.abort(reasonReset, fmt.Errorf("%w: %w", errApplication, err))
		return nil
	}
	if rest := b[st.written:]; len(rest) > 0 {
		st.queued, st.stalled = true, true
		if !st.enqueue(rest) {
			return nil
		}
		go st.drain()
	}
	if st.took(st.written) {
		s.tell()
	}
	return nil
}

// enqueue keeps bytes for the application, and reports whether the stream still lives: where too much waits on this node, it
// is reset. The lock is held.
func (st *stream) enqueue(b []byte) bool {
	if !take(&st.session.memory.queues, len(b), st.session.memory.maxQueues) {
		st.abort(reasonLimit, errMemory)
		return false
	}
	st.held += len(b)
	st.queue = append(st.queue, b...)
	return true
}

// took notes that the application has taken bytes, and grants them again when they are half of the window. It reports
// whether a frame was put. The lock is held.
func (st *stream) took(n int) bool {
	s := st.session
	if st.taken += n; st.taken < st.window/2 || st.gotFin {
		return false
	}
	grant := st.taken
	if !st.stalled && st.window < maxWindow && s.windows+st.window <= sessionWindows &&
		take(&s.memory.windows, st.window, s.memory.maxWindows) {
		s.windows += st.window
		grant += st.window
		st.window *= 2
	}
	st.taken, st.stalled = 0, false
	st.left += grant
	s.put(st.id, kindWindow, grant)
	return true
}

// drain writes the queue to the application until it is empty.
func (st *stream) drain() {
	s := st.session
	s.mu.Lock()
	for len(st.queue) > 0 {
		b := st.queue
		st.queue = nil
		s.mu.Unlock()
		err := st.writeAll(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return // it was killed
		}
		s.mu.Lock()
		if err != nil {
			st.abort(reasonReset, fmt.Errorf("%w: %w", errApplication, err))
		}
		if st.dead {
			s.mu.Unlock()
			return
		}
		st.held -= len(b)
		s.memory.queues.Add(-int64(len(b)))
		if st.took(len(b)) {
			s.tell()
		}
	}
	st.queued = false
	st.passFin()
	s.mu.Unlock()
}

// writeAll writes to the application, and grants bytes again as they are taken.
func (st *stream) writeAll(b []byte) (err error) {
	werr := st.app.raw.Write(func(fd uintptr) bool {
		for len(b) > 0 && err == nil {
			var n int
			if n, err = write(int(fd), b); n == 0 && err == nil {
				return false
			}
			b = b[n:]
		}
		return true
	})
	return errors.Join(err, werr)
}

// passFin closes the application's reading direction when all that came before was written. The lock is held.
func (st *stream) passFin() {
	if !st.gotFin || st.queued || st.passedFin || st.dead {
		return
	}
	st.passedFin = true
	st.app.closeWrite()
	st.finish()
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
