package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

const (
	warmUp = time.Minute
	// maxTransfer is four times what the window of a stream can hold.
	maxTransfer = 64 << 20
)

// kinds of load, each by so many workers that rest in between, so that the machine is loaded and not overloaded.
var kinds = []struct {
	name    string
	workers int
	rest    time.Duration
	run     func(*caller, context.Context) (int64, error)
}{
	{"download", 3, 200 * time.Millisecond, (*caller).download},
	{"download, read late", 8, 200 * time.Millisecond, (*caller).late},
	{"upload", 3, 200 * time.Millisecond, (*caller).upload},
	{"both directions", 3, 200 * time.Millisecond, (*caller).both},
	{"short connection", 8, 10 * time.Millisecond, (*caller).short},
	{"reset by the server", 2, 50 * time.Millisecond, (*caller).reset},
	{"live connection", 8, 0, (*caller).live},
}

// load makes load for a time, with restarts if disturbed, and waits for the end of what was begun.
func (s *soak) load(ctx context.Context, span time.Duration, disturbed bool) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var wg sync.WaitGroup
	for _, k := range kinds {
		for i := range k.workers {
			c := &caller{s: s, i: i, from: s.n.Pod("soak", []string{"c1", "c2"}[i%2])}
			wg.Go(func() {
				for ctx.Err() == nil {
					n, err := k.run(c, ctx)
					s.done(k.name, n, err)
					wait(ctx, time.Duration(float64(k.rest)*2*rand.Float64()))
				}
			})
		}
	}
	var err error
	wg.Go(func() { err = s.requests(ctx, span) })
	if disturbed {
		s.disturb(ctx)
	}
	wg.Wait()
	return err
}

// requests go by Envoy, authenticated too.
func (s *soak) requests(ctx context.Context, span time.Duration) error {
	r, err := load.Run(ctx, load.Config{
		URL: "http://" + netip.AddrPortFrom(s.n.ServiceIP("soak", "routed"), 80).String(), Dial: s.n.Pod("soak", "c1").Dial,
		Workers: 2, Rate: 50, MaxAge: 10 * time.Second, Duration: span, Timeout: 30 * time.Second,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.count("HTTP request by Envoy")
	c.Done, c.Bad = c.Done+r.Requests, c.Bad+r.Failed
	s.failures = append(s.failures, r.Failures()...)
	return nil
}

// done records what became of a piece of load.
func (s *soak) done(kind string, n int64, err error) {
	s.mu.Lock()
	c := s.count(kind)
	c.Done++
	c.Bytes += n
	s.mu.Unlock()
	if err != nil {
		s.fail(kind, err)
	}
}

func (s *soak) fail(kind string, err error) {
	s.mu.Lock()
	s.count(kind).Bad++
	text := fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), kind, err)
	if len(s.failures) < 200 {
		s.failures = append(s.failures, text)
	}
	s.mu.Unlock()
	s.progress("FAILED %s", text)
}

func (s *soak) count(kind string) *count {
	c := s.counts[kind]
	if c == nil {
		c = &count{}
		s.counts[kind] = c
	}
	return c
}

func (s *soak) report(w io.Writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := 0
	var names []string
	for k := range s.counts {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		c := s.counts[k]
		bad += c.Bad
		fmt.Fprintf(w, "%-24s %9d done %12d bytes %5d failed\n", k, c.Done, c.Bytes, c.Bad)
	}
	fmt.Fprintf(w, "restarts: %v\n", s.restarts)
	if bad > 0 {
		return fmt.Errorf("%d failures, the first of them:\n%s", bad, s.failures[0])
	}
	return nil
}

// caller is a client in a pod.
type caller struct {
	s    *soak
	i    int
	from *lab.Pod
}

// open connects to the Service or to a pod, over IPv4 or IPv6, and says what is wanted.
func (c *caller) open(op byte, size int64) (*net.TCPConn, header, error) {
	to := c.s.n.ServiceIP("soak", "bytes")
	switch rand.IntN(3) {
	case 0:
		to = c.s.n.Pod("soak", "s1").Address6
	case 1:
		to = c.s.n.Pod("soak", "s2").Address
	}
	h := header{op, rand.Uint64(), size}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := c.from.Dial(ctx, "tcp", netip.AddrPortFrom(to, bytesPort).String())
	if err != nil {
		return nil, h, err
	}
	_ = conn.SetDeadline(time.Now().Add(idle))
	if _, err := conn.Write(h.encode()); err != nil {
		conn.Close()
		return nil, h, fmt.Errorf("header: %w", err)
	}
	return conn.(*net.TCPConn), h, nil
}

// size is from 0 to maxTransfer, small ones more often.
func size() int64 { return int64(math.Exp(rand.Float64()*math.Log(maxTransfer))) - 1 }

func (c *caller) download(context.Context) (int64, error) { return c.fetch(0) }

// late leaves the answer unread for a while, beside the others.
func (c *caller) late(context.Context) (int64, error) {
	return c.fetch(time.Duration(rand.IntN(20_000)) * time.Millisecond)
}

func (c *caller) fetch(pause time.Duration) (int64, error) {
	conn, h, err := c.open(download, size())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	time.Sleep(pause)
	end, err := h.expect(conn)
	if err == nil && !errors.Is(end, io.EOF) {
		err = fmt.Errorf("after %d bytes: %w", h.size, end)
	}
	return h.size, err
}

func (c *caller) upload(context.Context) (int64, error) {
	conn, h, err := c.open(upload, size())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.Copy(conn, h.content()); err != nil {
		return 0, err
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	verdict, err := io.ReadAll(conn)
	if err == nil && string(verdict) != "whole" {
		err = fmt.Errorf("of %d bytes the server says: %q", h.size, verdict)
	}
	return h.size, err
}

// both sends and receives at once.
func (c *caller) both(context.Context) (int64, error) {
	conn, h, err := c.open(echo, size())
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, h.content())
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	end, err := h.expect(conn)
	if err == nil && !errors.Is(end, io.EOF) {
		err = end
	}
	if err != nil {
		_ = conn.Close()
	}
	return 2 * h.size, errors.Join(err, <-sent)
}

// short opens a connection for one small answer.
func (c *caller) short(context.Context) (int64, error) {
	conn, h, err := c.open(download, 100)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	_, err = h.expect(conn)
	if c.i%2 == 0 {
		_ = conn.SetLinger(0)
	}
	return h.size, err
}

// reset wants to see a reset after the bytes, or among them, and never an end that looks like a whole answer.
func (c *caller) reset(context.Context) (int64, error) {
	conn, h, err := c.open(cut, size()/16)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	end, err := h.expect(conn)
	if err == nil && !errors.Is(end, syscall.ECONNRESET) {
		err = fmt.Errorf("the server reset the connection, the client saw: %w", end)
	}
	return 0, err
}

// live is a connection for the whole time, with a line now and then.
func (c *caller) live(ctx context.Context) (int64, error) {
	conn, _, err := c.open(echo, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	var n int64
	line, back := make([]byte, 64), make([]byte, 64)
	for ctx.Err() == nil {
		_ = conn.SetDeadline(time.Now().Add(idle))
		copy(line, fmt.Sprintf("%063d\n", n))
		if _, err := conn.Write(line); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(conn, back); err != nil {
			return n, err
		}
		if string(line) != string(back) {
			return n, fmt.Errorf("%q came back for %q", back, line)
		}
		n += 2 * int64(len(line))
		wait(ctx, time.Duration(rand.IntN(200))*time.Millisecond)
	}
	if err := conn.CloseWrite(); err != nil {
		return n, err
	}
	rest, err := io.ReadAll(conn)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes came that were not asked for", len(rest))
	}
	return n, err
}

// wait returns early when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
