package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

// backend is what serves in a pod, on all its addresses: HTTP on 8080 and 8081, bytes on 7070, gRPC on 9090, datagrams
// on 5353. It runs in the test's process; its sockets are the pod's.
type backend struct {
	name string
	wg   sync.WaitGroup

	mu      sync.Mutex
	closers []func()
	conns   map[net.Conn]struct{}
	seen    map[string]int // requests by path
}

// serve starts a pod's backend.
func (m *mesh) serve(t *testing.T, ns, pod string) *backend {
	t.Helper()
	b, err := startBackend(m.Pod(ns, pod), ns+"/"+pod)
	if err != nil {
		t.Fatal(err)
	}
	m.backends[ns+"/"+pod] = b
	return b
}

func startBackend(p *lab.Pod, name string) (*backend, error) {
	b := &backend{name: name, conns: map[net.Conn]struct{}{}, seen: map[string]int{}}
	for _, s := range []struct {
		port  int
		serve func(net.Listener)
	}{{8080, b.http}, {8081, b.http}, {7070, b.bytes}, {9090, b.grpc}} {
		l, err := p.Listen("tcp", fmt.Sprintf(":%d", s.port))
		if err != nil {
			return nil, err
		}
		b.onClose(func() { _ = l.Close() })
		b.wg.Go(func() { s.serve(l) })
	}
	err := p.Do(func() error {
		for _, a := range []string{p.Address.String(), p.Address6.String()} {
			c, err := net.ListenPacket("udp", net.JoinHostPort(a, "5353"))
			if err != nil {
				return err
			}
			b.onClose(func() { _ = c.Close() })
			b.wg.Go(func() { b.datagrams(c) })
		}
		return nil
	})
	return b, err
}

func (b *backend) onClose(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closers = append(b.closers, f)
}

// close ends the backend and its connections, as a process that is killed.
func (b *backend) close() {
	b.mu.Lock()
	closers := b.closers
	b.mu.Unlock()
	for _, c := range closers {
		c()
	}
	b.mu.Lock()
	for c := range b.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// saw is what an HTTP request looked like at the backend.
type saw struct {
	Pod, Method, Host, Path, Query, Proto, Remote string
	Header                                        http.Header
}

func (b *backend) http(l net.Listener) {
	s := &http.Server{Handler: http.HandlerFunc(b.answer), ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	b.onClose(func() { _ = s.Close() })
	_ = s.Serve(l)
}

// answer obeys the query: sleep=DURATION, status=CODE, fail=N (503 for the first N requests with this path), endless (a line
// each 50 ms until the client goes).
func (b *backend) answer(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.seen[r.URL.Path]++
	n := b.seen[r.URL.Path]
	b.mu.Unlock()
	q := r.URL.Query()
	if d, err := time.ParseDuration(q.Get("sleep")); err == nil {
		time.Sleep(d)
	}
	w.Header().Set(load.BackendHeader, b.name)
	for q.Has("endless") && r.Context().Err() == nil {
		_, _ = fmt.Fprintln(w, "more")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(50 * time.Millisecond)
	}
	if code, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(code)
	}
	if fail, err := strconv.Atoi(q.Get("fail")); err == nil && n <= fail {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(saw{
		Pod: b.name, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Proto: r.Proto, Remote: r.RemoteAddr, Header: r.Header,
	})
}

// requests counts what came for a path.
func (b *backend) requests(path string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[path]
}

// bytes greets with the backend's name and the client's address, then echoes lines. The server speaks first.
func (b *backend) bytes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[c] = struct{}{}
		b.mu.Unlock()
		b.wg.Go(func() {
			_, _ = fmt.Fprintf(c, "%s %s\n", b.name, c.RemoteAddr())
			for s := bufio.NewScanner(c); s.Scan(); {
				if _, err := fmt.Fprintf(c, "%s\n", s.Text()); err != nil {
					break
				}
			}
			_ = c.Close()
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	}
}

// grpc serves the standard health service.
func (b *backend) grpc(l net.Listener) {
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	b.onClose(s.Stop)
	_ = s.Serve(l)
}

// datagrams answers each with the backend's name and the text.
func (b *backend) datagrams(c net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteTo([]byte(b.name+" "+string(buf[:n])), from)
		}
	}
}
