package tunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// readSize is how much is read from an application at once: several frames. Fewer, larger steps wake the other processes less
// often, and a wake-up costs as much as some 10 KiB.
const readSize = 4 * maxData

var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

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
	s.mu.Unlock()
	st.app.close()
	st.release()
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
	for !st.dead && len(s.out) > max(outLimit-len(b), outRoom) {
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
