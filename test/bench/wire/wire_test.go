package wire

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

func serve(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, at, "a") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp4", at.String()); err == nil {
			c.Close()
			return at
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the server does not answer")
	return at
}

func TestClientAndServer(t *testing.T) {
	at := serve(t)
	for name, l := range map[string]Load{
		"kept": {Connections: 8}, "reopened": {Connections: 8, Reopen: true}, "one": {Connections: 1}, "stream": {Stream: true},
	} {
		t.Run(name, func(t *testing.T) {
			l.Target, l.Duration = at, 100*time.Millisecond
			r, err := Run(l)
			if err != nil || r.Failed > 0 || r.Took <= 0 {
				t.Fatalf("%v: %+v", err, r)
			}
			if l.Stream && r.Bytes < chunkSize || !l.Stream && (r.Requests < 10 || r.P50 <= 0 || r.P99 < r.P50) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestFailuresCount(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	r, err := Run(Load{Target: at, Connections: 2, Duration: 50 * time.Millisecond})
	if err != nil || r.Failed == 0 || r.Requests != 0 || r.Error == "" {
		t.Errorf("%v: %+v", err, r)
	}
	if _, err := Run(Load{Target: at, Stream: true, Duration: time.Millisecond}); err == nil {
		t.Error("a stream from nobody")
	}
}

func TestParseAnswer(t *testing.T) {
	for in, want := range map[string]struct{ status, size int }{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":                       {200, 40},
		"HTTP/1.1 503 X\r\na: b\r\ncontent-length:0\r\n\r\n":                   {503, 42},
		"HTTP/1.1 200 OK\r\ncontent-le":                                        {0, 0},
		"HTTP/1.1 200 OK\r\nx: content-length: 9\r\ncontent-length: 1\r\n\r\n": {200, 61},
	} {
		if s, n, err := parseAnswer([]byte(in)); err != nil || s != want.status || n != want.size {
			t.Errorf("%q: %d, %d, %v; want %v", in, s, n, err, want)
		}
	}
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", "\r\n\r\n", "HTTP/1.1 abc\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", string(make([]byte, maxHead+1)),
	} {
		if _, _, err := parseAnswer([]byte(in)); err == nil {
			t.Errorf("%.30q passes", in)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, n, err := parseAnswer(b); err == nil && n < 0 {
			t.Errorf("size %d", n)
		}
	})
}
