package attack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// headersSpec opens connections of HTTP/2 with streams whose headers do not end.
type headersSpec struct {
	To      string
	Conns   int
	Streams int // of each
	Bytes   int // of the headers of each
	Endless bool
	Hold    time.Duration
}

func sendHeaders(s headersSpec) (report, error) {
	var done, refused atomic.Int64
	var wg sync.WaitGroup
	for range s.Conns {
		wg.Go(func() {
			n, err := s.connection()
			done.Add(int64(n))
			if err != nil {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(refused.Load())}, nil
}

// connection returns how many streams were sent before the connection was ended.
func (s *headersSpec) connection() (streams int, err error) {
	c, err := net.DialTimeout("tcp", s.To, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(s.Hold))
	go func() { _, _ = io.Copy(io.Discard, c) }()
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return 0, err
	}
	f := http2.NewFramer(c, nil)
	if err := f.WriteSettings(); err != nil {
		return 0, err
	}
	for i := range s.Streams {
		if err := s.stream(f, uint32(2*i+1)); err != nil {
			return i, err
		}
	}
	for end := time.Now().Add(s.Hold); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := f.WritePing(false, [8]byte{}); err != nil {
			return s.Streams, err
		}
	}
	return s.Streams, nil
}

// stream sends a request with a body that does not come. An endless one gets more headers and no end of them.
func (s *headersSpec) stream(f *http2.Framer, id uint32) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	for i := 0; block.Len() < s.Bytes; i++ {
		_ = e.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("~", 900), Sensitive: true})
	}
	b := block.Bytes()
	n := min(len(b), 16<<10)
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:n], EndHeaders: len(b) == n && !s.Endless}); err != nil {
		return err
	}
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = min(len(b), 16<<10)
		if err := f.WriteContinuation(id, len(b) == n && !s.Endless, b[:n]); err != nil {
			return err
		}
	}
	for s.Endless {
		var more bytes.Buffer
		_ = hpack.NewEncoder(&more).WriteField(hpack.HeaderField{Name: "x", Value: "~", Sensitive: true})
		if err := f.WriteContinuation(id, false, more.Bytes()); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// largeHeaders: 92 connections of an outsider with 100 streams of 50 KB headers, and blocks of headers that do not end.
func largeHeaders(t *testing.T, a *arena) string {
	hold := 6 * time.Second
	if long {
		hold = 40 * time.Second
	}
	large := headersSpec{To: a.routed("open"), Conns: 92, Streams: 100, Bytes: 50 << 10, Hold: hold}
	endless := headersSpec{To: a.routed("open"), Conns: 200, Streams: 1, Bytes: 100, Endless: true, Hold: hold}
	var l, e report
	most := 0
	noticed := a.under(t, func() {
		first, second := from(t, a.outsider, "headers", large), from(t, a.outsider, "headers", endless)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l, e = first.wait(), second.wait()
		}()
		for {
			if envoy, _ := a.memory(t); envoy > most {
				most = envoy
			}
			select {
			case <-done:
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	}, nil)
	if most > 500 {
		t.Errorf("Envoy held %d MB", most)
	}
	return fmt.Sprintf("%d streams sent, %d of %d and %d of %d connections ended; Envoy at most %d MB; %s",
		l.Done, l.Refused, large.Conns, e.Refused, endless.Conns, most, noticed)
}
