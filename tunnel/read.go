package tunnel

import (
	"fmt"
	"time"
)

const (
	// leastRead and mostRead are how many bytes of a session are read at once: mostRead while so many come. Fewer, larger steps
	// wake the applications less often.
	leastRead = maxData + headerSize
	mostRead  = 4 * leastRead
	// smallReads in a row let a session go back to leastRead.
	smallReads = 100

	measureEvery = time.Second // the round trip
)

// input holds what was read from a session and not handled.
type input struct {
	buf   []byte
	have  int // bytes
	small int // reads of few bytes in a row
}

// handled removes the first used bytes after a read of n bytes, and makes the buffer fit what comes.
func (in *input) handled(n, used int) {
	filled := in.have == len(in.buf)
	in.have = copy(in.buf, in.buf[used:in.have])
	if in.small++; n > len(in.buf)/8 {
		in.small = 0
	}
	switch {
	case filled && len(in.buf) < mostRead:
		in.resize(mostRead)
	case in.have == len(in.buf):
		in.resize(len(in.buf) + maxPayload) // a large frame of a kind that is skipped
	case in.small > smallReads && len(in.buf) > leastRead && in.have < leastRead:
		in.resize(leastRead)
	}
}

func (in *input) resize(size int) {
	buf := make([]byte, size)
	copy(buf, in.buf[:in.have])
	in.buf, in.small = buf, 0
}

// readFrames handles what the peer sends. It must not wait for anything but the peer: everybody's bytes come through it.
func (s *session) readFrames() error {
	in := input{buf: make([]byte, leastRead)}
	var part incoming
	var measured time.Time
	for {
		n, err := s.conn.Read(in.buf[in.have:])
		if n > 0 {
			in.have += n
			now := time.Now()
			s.heard(now)
			if now.Sub(measured) > measureEvery {
				measured = now
				s.roundTrip.Store(int64(s.conn.RoundTrip()))
			}
			used, err := s.handleFrames(&part, in.buf[:in.have])
			if err != nil {
				return err
			}
			in.handled(n, used)
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if s.flooded() {
			return fmt.Errorf("%w: it sends and does not read", errProtocol)
		}
	}
}

// incoming is a data frame of which only a part has come.
type incoming struct {
	stream uint32
	left   int // bytes
}

// handleFrames handles the frames in b, and returns how much of b it has used.
func (s *session) handleFrames(in *incoming, b []byte) (used int, err error) {
	for used < len(b) {
		if in.left > 0 {
			n := min(in.left, len(b)-used)
			if err := s.gather(in.stream, b[used:used+n]); err != nil {
				return used, err
			}
			in.left -= n
			used += n
			continue
		}
		f, size, err := parseFrame(b[used:])
		if err != nil {
			return used, err
		}
		if size == 0 {
			break
		}
		if f.kind == kindData {
			in.stream, in.left = f.stream, f.value-len(f.payload)
			err = s.gather(f.stream, f.payload)
		} else if err = s.deliver(); err == nil {
			err = s.handle(f)
		}
		if err != nil {
			return used, err
		}
		used += size
	}
	return used, s.deliver()
}

// flooded reports whether more waits to be sent than what streams put: answers to a peer that does not read them.
func (s *session) flooded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out) > 4*outLimit
}
