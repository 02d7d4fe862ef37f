package tunnel

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestOrder: streams are opened in the order in which the connections came, though the first ones wait for a session.
func TestOrder(t *testing.T) {
	got := make(chan uint16, 100)
	dialled, _ := pair(t, func(s *session, id uint32, o opening) {
		got <- o.clientPort
		s.refuse(id, reasonRefused)
	})
	to := netip.MustParseAddrPort("192.0.2.1:80")
	n := New("", slog.New(slog.DiscardHandler))
	n.ctx = t.Context()
	n.peers[to.Addr()] = &known{answered: make(chan struct{}), identity: "spiffe://a/b"}
	p := n.emptyPod()
	p.spec.Store(&Workload{})
	making := &dialling{done: make(chan struct{})}
	r := p.routeTo(to.Addr())
	r.identity, r.dialling = "spiffe://a/b", making
	var want []uint16
	for port := uint16(1); port <= 60; port++ {
		switch port {
		case 10:
			close(n.peers[to.Addr()].answered)
		case 20:
			r.mu.Lock()
			r.dialling = nil
			r.sessions = append(r.sessions, &used{session: dialled, until: time.Now().Add(time.Hour)})
			r.mu.Unlock()
			making.session = dialled
			close(making.done)
		}
		_, near := application(t)
		p.arrived(near, netip.AddrPortFrom(netip.Addr{}, port), target{to: to})
		want = append(want, port)
	}
	var order []uint16
	for range want {
		select {
		case port := <-got:
			order = append(order, port)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %v were opened", order)
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("opened in the order %v", order)
	}
}

// TestUnanswered: a stream that the peer does not answer is reset, and the session opens no others.
func TestUnanswered(t *testing.T) {
	dialled, _ := pair(t, func(*session, uint32, opening) {})
	client := stream1(t, dialled)
	dialled.check(time.Now())
	if !dialled.isOpening() {
		t.Fatal("the stream is not being opened")
	}
	dialled.check(time.Now().Add(openTimeout + time.Second))
	if _, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application sees %v", err)
	}
	if _, open, _ := dialled.state(); open {
		t.Error("the session opens more streams")
	}
}

// TestAnswered: the answer to an open frame comes before any byte.
func TestAnswered(t *testing.T) {
	dialled, accepted := pair(t, func(s *session, id uint32, _ opening) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.put(id, kindWindow, 0)
	})
	stream1(t, dialled)
	for dialled.isOpening() {
		if t.Context().Err() != nil {
			t.Fatal("no answer")
		}
		accepted.check(time.Now())
		time.Sleep(time.Millisecond)
	}
}

// TestEndUnused: a session that just got a stream is not ended, and one that is ended gets none.
func TestEndUnused(t *testing.T) {
	dialled, _ := pair(t, func(*session, uint32, opening) {})
	client := stream1(t, dialled)
	dialled.endUnused()
	if _, open, _ := dialled.state(); !open {
		t.Fatal("it was ended with a stream")
	}
	_ = client.SetLinger(0)
	client.Close()
	for {
		if n, _, _ := dialled.state(); n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	dialled.endUnused()
	_, near := application(t)
	if _, err := dialled.open(near, opening{port: 80, clientPort: 1}); !errors.Is(err, errClosed) {
		t.Errorf("opened on a session that was ended: %v", err)
	}
}

// TestClosedRoute: a connection that comes as its route is given up gets another one.
func TestClosedRoute(t *testing.T) {
	p := New("", slog.New(slog.DiscardHandler)).emptyPod()
	p.spec.Store(&Workload{})
	to := netip.MustParseAddr("192.0.2.1")
	r := p.routeTo(to)
	if !r.tend(time.Now()) || r.take(&arrival{}) {
		t.Fatal("a route that is given up takes connections")
	}
	p.mu.Lock()
	delete(p.routes, to)
	p.mu.Unlock()
	if p.routeTo(to) == r {
		t.Error("it is still used")
	}
}
