package connlimit

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server accepts and holds connections until the test ends.
func server(t *testing.T, most, each int) (*listener, string) {
	t.Helper()
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(in, most, each).(*listener)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Write([]byte("x"))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l, in.Addr().String()
}

// dial connects from an address of the loopback. It returns nil if the server resets the connection.
func dial(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(context.Background(), "tcp", to)
	if errors.Is(err, unix.ECONNRESET) { // before the client has looked at its connection
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	} else if err != nil {
		return nil
	}
	return c
}

// open reports whether the server holds a connection. One that it has ended is known as such soon.
func open(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func TestGreedyGivesWay(t *testing.T) {
	l, at := server(t, 8, 8)
	var greedy []net.Conn
	for range 8 {
		c := dial(t, "127.0.0.2", at)
		if c == nil {
			t.Fatal("there is room")
		}
		greedy = append(greedy, c)
	}
	if dial(t, "127.0.0.2", at) != nil {
		t.Error("an address that has all got one more")
	}
	for i, from := range []string{"127.0.0.3", "127.0.0.4", "127.0.0.3"} {
		c := dial(t, from, at)
		if c == nil || !open(c) {
			t.Fatalf("connection %d from %s found no room", i, from)
		}
		latest := greedy[len(greedy)-1]
		for end := time.Now().Add(10 * time.Second); open(latest); {
			if time.Now().After(end) {
				t.Fatalf("connection %d did not take the place of the latest", i)
			}
		}
		greedy = greedy[:len(greedy)-1]
	}
	for _, c := range greedy {
		if !open(c) {
			t.Error("more than one gave way to each")
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all != 8 || len(l.of) != 3 {
		t.Errorf("%d connections of %d addresses are counted", l.all, len(l.of))
	}
}

func TestEqualsStay(t *testing.T) {
	_, at := server(t, 2, 2)
	a, b := dial(t, "127.0.0.2", at), dial(t, "127.0.0.3", at)
	if dial(t, "127.0.0.4", at) != nil {
		t.Error("a connection took the place of one whose address has no other")
	}
	if !open(a) || !open(b) {
		t.Error("a connection gave way")
	}
}

func TestBoundOfAnAddress(t *testing.T) {
	l, at := server(t, 100, 2)
	first := dial(t, "127.0.0.2", at)
	if dial(t, "127.0.0.2", at) == nil || dial(t, "127.0.0.2", at) != nil || dial(t, "127.0.0.3", at) == nil {
		t.Fatal("the bound is not 2")
	}
	_ = first.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		n := l.all
		l.mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are counted, want 2", n)
		}
	}
	if dial(t, "127.0.0.2", at) == nil {
		t.Error("a connection that has ended still counts")
	}
}
