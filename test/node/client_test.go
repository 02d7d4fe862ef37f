package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

// patience bounds the wait for what must come; what must not come is never waited for.
const patience = 20 * time.Second

// until tries again until f succeeds.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// at makes an address and port of an IP.
func at(ip netip.Addr, port uint16) string { return netip.AddrPortFrom(ip, port).String() }

// request describes an HTTP call.
type request struct {
	method, path, host string
	header             http.Header
	http2              bool
}

// answer is a response, and what the backend saw.
type answer struct {
	status int
	header http.Header
	body   string
	saw    saw
}

// call makes one request on a connection of its own.
func call(from *lab.Pod, addr string, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://"+addr+r.path, nil)
	if err != nil {
		return answer{}, err
	}
	req.Host = r.host
	for k, v := range r.header {
		req.Header[k] = v
	}
	tr := &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}
	if r.http2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &a.saw)
	return a, err
}

// want calls and compares the status and, if pod is not "", who answered.
func want(from *lab.Pod, addr string, r request, status int, pod string) error {
	a, err := call(from, addr, r)
	if err != nil {
		return err
	}
	if a.status != status || pod != "" && a.saw.Pod != pod {
		return fmt.Errorf("%s %s: status %d from %q, want %d from %q: %.200s", r.method, r.path, a.status, a.saw.Pod, status, pod, a.body)
	}
	return nil
}

// mustDial connects. The connection has an end in time, and with the test.
func mustDial(t *testing.T, from *lab.Pod, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatalf("%s to %s: %v", from.Name, addr, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// stream is a connection to a backend's port for bytes.
type stream struct {
	net.Conn
	in     *bufio.Reader
	server string // who greeted
	client string // whom it took the client for
}

// open connects and reads the greeting.
func open(from *lab.Pod, addr string) (*stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: c, in: bufio.NewReader(c)}
	_ = c.SetDeadline(time.Now().Add(patience))
	line, err := s.in.ReadString('\n')
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	s.server, s.client, _ = strings.Cut(strings.TrimSpace(line), " ")
	return s, nil
}

// echo sends a line and wants it back.
func (s *stream) echo(text string) error {
	_ = s.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(s, "%s\n", text); err != nil {
		return err
	}
	line, err := s.in.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != text {
		err = fmt.Errorf("%q came back for %q", line, text)
	}
	return err
}

// mustOpen opens a stream that ends with the test.
func mustOpen(t *testing.T, from *lab.Pod, addr string) *stream {
	t.Helper()
	s, err := open(from, addr)
	if err != nil {
		t.Fatalf("%s to %s: %v", from.Name, addr, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// cut waits until the connection breaks: a read ends, though nothing was sent and nobody closes it here.
func (s *stream) cut() error {
	_ = s.SetDeadline(time.Now().Add(patience))
	b, err := s.in.ReadByte()
	if err == nil {
		return fmt.Errorf("it lives: %q came", b)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("it lives on after %s", patience)
	}
	return nil
}

// refused wants a connection for bytes to fail.
func refused(from *lab.Pod, addr string) error {
	s, err := open(from, addr)
	if err != nil {
		return nil
	}
	_ = s.Close()
	return fmt.Errorf("%s reaches %s at %s", from.Name, s.server, addr)
}

// under makes load while f runs, at least as much as before f after it, and fails the test if a request failed.
func under(t *testing.T, c load.Config, f func()) *load.Report {
	t.Helper()
	if c.Workers == 0 {
		c.Workers, c.Rate = 4, 200
	}
	c.Timeout = patience
	r, err := load.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	f()
	time.Sleep(300 * time.Millisecond)
	report := r.Stop()
	if report.Failed > 0 || report.Requests == 0 {
		t.Errorf("%d of %d requests failed, within %s: %v", report.Failed, report.Requests, report.Outage(), report.Failures())
	}
	return report
}

// endless is an answer that does not end by itself.
type endless struct {
	name  string
	lines atomic.Int64
	ended chan error
}

// openEndless asks for one. It ends with the test.
func openEndless(t *testing.T, from *lab.Pod, addr string, http2 bool) *endless {
	t.Helper()
	tr := &http.Transport{DialContext: from.Dial, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/?endless", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("an endless answer: status %d", resp.StatusCode)
	}
	e := &endless{name: fmt.Sprintf("an endless answer to %s, HTTP/2 %t", from.Name, http2), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(resp.Body)
		for in.Scan() {
			e.lines.Add(1)
		}
		e.ended <- in.Err()
	}()
	t.Cleanup(func() { _ = resp.Body.Close(); tr.CloseIdleConnections(); <-done })
	return e
}

// next waits for lines that come from now on.
func (e *endless) next() error {
	before := e.lines.Load()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-e.ended:
			return fmt.Errorf("ended after %d lines: %w", e.lines.Load(), err)
		default:
		}
		if e.lines.Load() > before+2 {
			return nil
		}
	}
	return fmt.Errorf("nothing comes after %d lines", before)
}
