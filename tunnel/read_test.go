package tunnel

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"
)

// Frames that are read together come to their applications whole and in order, however many there are and however much an
// application's socket takes at once.
func TestFramesReadTogether(t *testing.T) {
	s := newSession(nil, netip.Addr{})
	var want [2][]byte
	got := [2]chan []byte{make(chan []byte, 1), make(chan []byte, 1)}
	for i := range want {
		app, far := application(t)
		st := newStream(s, uint32(i+1), far)
		st.left = 64 << 20
		s.streams[st.id] = st
		_ = app.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			b, err := io.ReadAll(app)
			if err != nil {
				t.Error(err)
			}
			got[i] <- b
		}()
	}
	bytesOf := random(maxData)
	var part incoming
	var frames []byte
	for n := 1; n < 600; n++ {
		i := n / 70 % 2 // more frames of a stream than one system call takes
		b := bytesOf[:n*n%maxData]
		want[i] = append(want[i], b...)
		frames = append(appendHeader(frames, uint32(i+1), kindData, len(b)), b...)
		if n%150 == 0 {
			if used, err := s.handleFrames(&part, frames); err != nil || used != len(frames) {
				t.Fatal(used, err)
			}
			clear(frames) // its buffer is used again
			frames = frames[:0]
		}
	}
	for i := range want {
		frames = appendHeader(frames, uint32(i+1), kindFin, 0)
	}
	if _, err := s.handleFrames(&part, frames); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if b := <-got[i]; !bytes.Equal(b, want[i]) {
			t.Errorf("stream %d: %d bytes of %d, or others", i+1, len(b), len(want[i]))
		}
	}
}

func TestSkip(t *testing.T) {
	for n := range 7 {
		parts := skip([][]byte{[]byte("ab"), {}, []byte("c"), []byte("def")}, n)
		if got := string(bytes.Join(parts, nil)); got != "abcdef"[n:] {
			t.Errorf("without the first %d bytes: %q", n, got)
		}
	}
}

// A session that carries much reads much at once, and needs less memory again later.
func TestReadBuffer(t *testing.T) {
	in := input{buf: make([]byte, leastRead)}
	read := func(n, left int) {
		in.have += n
		in.handled(n, in.have-left)
	}
	read(leastRead-1, 0)
	if len(in.buf) != leastRead {
		t.Errorf("%d bytes though there was room", len(in.buf))
	}
	in.buf[leastRead-1] = 'x'
	read(leastRead, 1)
	if len(in.buf) != mostRead || in.have != 1 || in.buf[0] != 'x' {
		t.Errorf("%d bytes, of which %d are used, after it was full", len(in.buf), in.have)
	}
	for range smallReads + 1 {
		read(100, 1)
	}
	if len(in.buf) != leastRead || in.have != 1 || in.buf[0] != 0 {
		t.Errorf("%d bytes, of which %d are used, after small reads", len(in.buf), in.have)
	}
}
