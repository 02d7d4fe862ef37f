package attack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
)

// bodiesSpec opens connections with requests whose bodies, or answers, nobody reads. Those that are cut are opened again.
type bodiesSpec struct {
	To      string
	Conns   int
	Streams int // of each, of HTTP/2; HTTP/1.1 if it is 0
	Upload  bool
	Hold    time.Duration
}

// windowOf is what a stream of an upload sends, in bytes: as much as Envoy takes.
const windowOf = 240 << 10

func sendBodies(s bodiesSpec) (report, error) {
	var done, cut atomic.Int64
	end := time.Now().Add(s.Hold)
	var wg sync.WaitGroup
	for range s.Conns {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := net.DialTimeout("tcp", s.To, 5*time.Second)
				if err != nil {
					time.Sleep(time.Second)
					continue
				}
				_ = c.SetDeadline(end)
				done.Add(1)
				if s.Streams > 0 {
					cut.Add(s.streams(c))
				} else if s.request(c, end) {
					cut.Add(1)
				}
				c.Close()
				time.Sleep(3 * time.Second)
			}
		})
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(cut.Load())}, nil
}

// request makes one of HTTP/1.1, and reports whether it was cut before the end.
func (s *bodiesSpec) request(c net.Conn, deadline time.Time) bool {
	if !s.Upload {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range tick.C {
			if late := time.Now().After(deadline); late || hasEnded(c) {
				return !late
			}
		}
	}
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
	_, err := io.CopyN(c, zeros{}, 1_000_000_000)
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

// streams makes requests of HTTP/2 and returns how many were reset, all if the connection was cut.
func (s *bodiesSpec) streams(c net.Conn) (cut int64) {
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return 0
	}
	f := http2.NewFramer(c, c)
	if f.WriteSettings() != nil {
		return 0
	}
	for { // Envoy's windows are those of HTTP/2 itself until its settings are there and acknowledged
		frame, err := f.ReadFrame()
		if err != nil {
			return 0
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
			break
		}
	}
	err := f.WriteSettingsAck()
	for i := 0; i < s.Streams && err == nil; i++ {
		err = s.stream(f, uint32(2*i+1))
	}
	for err == nil { // no window is ever opened again
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err == nil {
			if _, ok := frame.(*http2.RSTStreamFrame); ok {
				cut++
			}
		}
		if cut == int64(s.Streams) {
			return cut
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return cut
	}
	return int64(s.Streams)
}

func (s *bodiesSpec) stream(f *http2.Framer, id uint32) error {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	method := map[bool]string{false: "GET", true: "POST"}[s.Upload]
	for _, h := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: !s.Upload})
	for sent, data := 0, make([]byte, 16<<10); s.Upload && err == nil && sent < windowOf; sent += len(data) {
		err = f.WriteData(id, false, data)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// serveHoard serves HTTP of both versions on a port of a pod: uploads are not read, and answers do not end.
func serveHoard(t *testing.T, p *lab.Pod, port int) {
	t.Helper()
	l, err := p.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &both, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-r.Context().Done()
			return
		}
		_, _ = io.Copy(w, zeros{})
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

const hoardManifest = `apiVersion: v1
kind: Service
metadata: {name: hoard, namespace: tenant, labels: {weft.io/l7: enabled}}
spec: {clusterIP: 10.96.77.9, selector: {app: accomplice}, ports: [{port: 80, targetPort: 9998}]}
---
apiVersion: v1
kind: Service
metadata: {name: hoard, namespace: open, labels: {weft.io/l7: enabled}}
spec: {clusterIP: 10.96.77.10, selector: {app: server}, ports: [{port: 80, targetPort: 9998}]}
`

// unreadBodies: bodies that nobody reads, of a tenant by HBONE and of an outsider in the clear, in both directions and by both
// versions of HTTP, are cut before Envoy refuses its neighbours.
func unreadBodies(t *testing.T, a *arena) string {
	a.put(t, "hoard.yaml", hoardManifest)
	serveHoard(t, a.accomplice, 9998)
	serveHoard(t, a.open, 9998)
	serveHoard(t, a.plain, 9998)
	var specs []bodiesSpec
	for _, upload := range []bool{true, false} {
		specs = append(specs, bodiesSpec{Conns: 200, Upload: upload, Hold: 45 * time.Second},
			bodiesSpec{Conns: 40, Streams: 16, Upload: upload, Hold: 45 * time.Second})
	}
	most, refused := 0, false
	var sum report
	noticed := a.under(t, func() {
		var running []*attacker
		for _, s := range specs {
			s.To = "10.96.77.9:80"
			running = append(running, from(t, a.mallory, "bodies", s))
			s.To = "10.96.77.10:80"
			running = append(running, from(t, a.outsider, "bodies", s))
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, r := range running {
				sum.join(r.wait())
			}
		}()
		for {
			st, err := a.Proxy.Status(t.Context())
			if err != nil {
				t.Error(err)
			} else {
				most = max(most, int(st.AllocatedBytes>>20))
				refused = refused || st.Overload["stop_accepting_requests"]
			}
			select {
			case <-done:
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	}, func() {
		var running []*attacker
		for _, s := range specs {
			s.To = netip.AddrPortFrom(a.plain.Address, 9998).String()
			running = append(running, from(t, a.outsider, "bodies", s), from(t, a.outsider, "bodies", s))
		}
		for _, r := range running {
			r.wait()
		}
	})
	if refused {
		t.Error("Envoy refused requests of everybody")
	}
	until(t, "the neighbour is served", a.neighbourServed)
	return fmt.Sprintf("%d connections, %d requests cut; Envoy at most %d MB; %s", sum.Done, sum.Refused, most, noticed)
}

// hasEnded reports whether the other end has closed a connection, without reading what it sent.
func hasEnded(c net.Conn) bool {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, _ = unix.Poll(poll, 0)
		ended = poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return ended || err != nil
}
