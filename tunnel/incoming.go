package tunnel

import (
	"errors"
	"fmt"
	"os"
)

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
		st.queued = true
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

// enqueue keeps bytes for the application, and reports whether the stream still lives: where too much waits for its pod, it
// is reset. The lock is held.
func (st *stream) enqueue(b []byte) bool {
	if !st.session.memory.queues.take(len(b)) {
		st.abort(reasonLimit, errMemory)
		return false
	}
	st.held += len(b)
	st.queue = append(st.queue, b...)
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
