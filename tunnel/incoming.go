package tunnel

import (
	"errors"
	"fmt"
	"os"
)

// gathered are bytes of one stream, of several frames that came together.
type gathered struct {
	stream uint32
	parts  [][]byte
	size   int
}

// maxParts bounds the frames that are delivered by one system call.
const maxParts = 32

// gather keeps bytes for deliver, which must be called before they are overwritten.
func (s *session) gather(id uint32, b []byte) error {
	g := &s.gathered
	if g.stream != id || len(g.parts) == maxParts {
		if err := s.deliver(); err != nil {
			return err
		}
	}
	g.stream, g.size = id, g.size+len(b)
	g.parts = append(g.parts, b)
	return nil
}

// deliver hands bytes to the application: at once if it takes them, else by a queue. It is called by the goroutine that
// reads the session, and does not wait.
func (s *session) deliver() error {
	g := &s.gathered
	if len(g.parts) == 0 {
		return nil
	}
	size, parts := g.size, g.parts
	defer func() { g.size, g.parts = 0, parts[:0] }()
	s.mu.Lock()
	st := s.streams[g.stream]
	if st == nil {
		s.mu.Unlock()
		return nil
	}
	if st.left -= size; st.left < 0 || st.gotFin {
		s.mu.Unlock()
		return fmt.Errorf("%w: bytes that were not asked for", errProtocol)
	}
	st.answer()
	st.received += uint64(size)
	if st.queued {
		st.enqueue(parts, size)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	st.writing, st.written, st.writeErr = parts, 0, nil
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
	if st.written < size {
		st.queued = true
		if !st.enqueue(skip(parts, st.written), size-st.written) {
			return nil
		}
		go st.drain()
	}
	if st.took(st.written) {
		s.tell()
	}
	return nil
}

// skip leaves out the first n bytes of parts.
func skip(parts [][]byte, n int) [][]byte {
	for n > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

// enqueue keeps bytes for the application, and reports whether the stream still lives: where too much waits for its pod, it
// is reset. The lock is held.
func (st *stream) enqueue(parts [][]byte, size int) bool {
	if !st.session.memory.queues.take(size) {
		st.abort(reasonLimit, errMemory)
		return false
	}
	st.held += size
	for _, b := range parts {
		st.queue = append(st.queue, b...)
	}
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
		err := writeAll(st.app.raw, b)
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
		s.memory.queues.give(len(b))
		if st.took(len(b)) {
			s.tell()
		}
	}
	st.queued = false
	st.passFin()
	s.mu.Unlock()
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
