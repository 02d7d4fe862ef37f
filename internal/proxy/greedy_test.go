package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// never is how long streams may be idle where pods have them: a year (see xds).
const never = "31536000s"

// Uploads by HTTP/2 that a server does not read are reset before Envoy refuses others.
func TestGreedyStreamsAreReset(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, never)
	n.cfg.MemoryLimitBytes = 256 << 20
	n.cfg.OverloadTime = time.Hour
	n.run(n.cfg)
	n.untilLive()
	var resets atomic.Int64
	for range 40 { // of 15 MiB each
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		h.keep(c)
		if err := upload2(c, 15<<20, &resets); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // Envoy looks at its heap every 100 ms
		if err := n.get(); err != nil {
			t.Errorf("a neighbour's request: %v", err)
		}
		if h.refuses() {
			t.Fatal("Envoy refuses work")
		}
	}
	if resets.Load() == 0 {
		t.Error("no stream was reset")
	}
	t.Logf("%d streams were reset", resets.Load())
}

// Uploads by HTTP/1.1 that a server does not read, which Envoy does not reset by what they hold, end because nothing passes.
func TestStalledUploadsGiveWay(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	h := newHoard(n, never)
	n.cfg.MemoryLimitBytes = 64 << 20
	n.cfg.OverloadTime = time.Hour
	n.run(n.cfg)
	n.untilLive()
	for range 100 {
		h.upload()
		if err := n.get(); err != nil {
			t.Errorf("a neighbour's request: %v", err)
		}
		if h.refuses() {
			t.Fatal("Envoy refuses work")
		}
	}
	h.mu.Lock()
	first := h.conns[0]
	h.mu.Unlock()
	_ = first.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(first); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first upload is still held: %v", err)
	}
}

// upload2 sends a body by HTTP/2 and does not end it. A stream may be reset meanwhile.
func upload2(c net.Conn, size int, resets *atomic.Int64) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	for { // its windows are those of HTTP/2 itself until its settings are there and acknowledged
		frame, err := f.ReadFrame()
		if err != nil {
			return err
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
			break
		}
	}
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	err := errors.Join(f.WriteSettingsAck(),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	for data := make([]byte, 16<<10); err == nil && size > 0; size -= len(data) {
		err = f.WriteData(1, false, data)
	}
	go countResets(f, resets)
	return err
}

// countResets counts the streams that Envoy resets on a connection.
func countResets(f *http2.Framer, n *atomic.Int64) {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			n.Add(1)
		}
	}
}
