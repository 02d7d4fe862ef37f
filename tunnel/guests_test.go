package tunnel

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// testPod makes a pod whose streams lead nowhere.
func testPod() *pod {
	p := New("", slog.New(slog.DiscardHandler)).emptyPod()
	p.spec.Store(&Workload{Key: "ns/pod"})
	return p
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func TestShares(t *testing.T) {
	p := &pool{most: 1000, weight: 4}
	greedy, second, modest := p.newShare(), p.newShare(), p.newShare()
	fill := func(s *share) (n int) {
		for s.take(1) {
			n++
		}
		return n
	}
	if n := fill(greedy); n != 800 {
		t.Errorf("one user has %d", n)
	}
	if n := fill(second); n != 160 {
		t.Errorf("a second one has %d", n)
	}
	if !modest.take(1) {
		t.Error("nothing is left for the third one")
	}
	greedy.give(800)
	second.give(160)
	modest.give(1)
	if n := p.used.Load(); n != 0 || !modest.take(500) {
		t.Errorf("%d are still used", n)
	}
}

// Connections on which nothing comes keep nobody's handshake away, from however few addresses they are.
func TestHandshakesOfOthers(t *testing.T) {
	for _, greedy := range []int{1, 3, 40} {
		var h handshakes
		conns := make([]net.Conn, 0, 2*maxHandshakes)
		add := func(from netip.Addr) net.Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			h.add(from, near)
			if n := len(h.by[from]); n > maxHandshakesOf {
				t.Fatalf("%d handshakes of one address at once", n)
			}
			return near
		}
		for i := range 2 * maxHandshakes {
			conns = append(conns, add(address(i%greedy)))
		}
		peer := add(address(100))
		for range maxHandshakes {
			add(address(0))
		}
		_ = peer.SetReadDeadline(time.Now())
		if _, err := peer.Read(make([]byte, 1)); errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the peer's handshake was given up for %d addresses with more", greedy)
		}
		if _, err := conns[0].Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the oldest connection of an address with many is still there: %v", err)
		}
		if h.total > maxHandshakes {
			t.Errorf("%d handshakes at once", h.total)
		}
		h.done(address(100), peer)
		h.done(address(100), peer)
		for a, all := range h.by {
			for len(h.by[a]) > 0 {
				h.done(a, all[0])
			}
		}
		if !h.none() || len(h.by) > 0 {
			t.Errorf("%d handshakes are left of %d addresses", h.total, len(h.by))
		}
	}
}

// The sessions of one address leave room for others, and what it had is forgotten with its last session.
func TestSessionsOfOthers(t *testing.T) {
	n := New("", slog.New(slog.DiscardHandler))
	n.sessions.most = nodeSessions // whatever files this process may open
	p := n.emptyPod()
	type entry struct {
		s *session
		v *visitor
	}
	var all []entry
	admit := func(from netip.Addr) bool {
		s, v := newSession(nil, from), &visitor{}
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.admit(s, v) {
			return false
		}
		all = append(all, entry{s, v})
		return true
	}
	for admit(address(1)) {
	}
	if n := len(all); n != maxSessions/2 {
		t.Errorf("one address has %d sessions", n)
	}
	for i := range 100 {
		if !admit(address(2 + i)) {
			t.Fatalf("no room for address %d", i)
		}
	}
	for _, e := range all {
		p.dismiss(e.s, e.v)
	}
	if len(p.guests) > 0 || len(p.accepted) > 0 || p.sessions.used.Load() != 0 {
		t.Errorf("%d addresses and %d sessions are left", len(p.guests), len(p.accepted))
	}
}

// The streams of pods that have many leave room for the node's other pods, in both directions.
func TestStreamsOfOtherPods(t *testing.T) {
	n := New("", slog.New(slog.DiscardHandler))
	n.streams.most = 1000
	greedy, modest := n.emptyPod(), n.emptyPod()
	g := &guest{streams: greedy.inbound.newShare()}
	in, out := 0, 0
	for range 300 {
		if greedy.takeInbound(g) {
			in++
		}
	}
	for range 1000 {
		if greedy.takeOutbound() {
			out++
		}
	}
	if in != 200 || out != 250 { // of a quarter, one peer has four fifths
		t.Errorf("%d and %d streams of one pod", in, out)
	}
	other := &guest{streams: greedy.inbound.newShare()}
	if !greedy.takeInbound(other) {
		t.Error("no room for another peer of the same pod")
	}
	greedy.giveInbound(other)
	if !modest.takeOutbound() || !modest.takeInbound(&guest{streams: modest.inbound.newShare()}) {
		t.Error("no room for another pod")
	}
	for range in {
		greedy.giveInbound(g)
	}
	for range out {
		greedy.giveOutbound()
	}
	if used := n.streams.used.Load(); used != 2 || greedy.outbound.Load() != 0 || greedy.inbound.used.Load() != 0 {
		t.Errorf("%d are still counted", used)
	}
}

// A peer opens no streams when its certificate has ended, or when it was told to open no more, though its session lives on.
func TestStreamsAfterTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name        string
		ended, left time.Duration // how long ago; 0 is not at all
		want        reason
	}{
		{"valid", 0, 0, reasonReset},
		{"just ended", time.Second, time.Second, reasonReset},
		{"ended", expiredTime + time.Minute, 0, reasonDenied},
		{"told to leave", 0, expiredTime + time.Second, reasonDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := testPod()
			ns, err := openNamespace("/proc/self/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			ns.close() // streams that are let in fail behind it
			p.ns = ns
			v := &visitor{identity: "spiffe://td/ns/a/sa/b", until: time.Now().Add(time.Hour)}
			if tt.ended > 0 {
				v.until = time.Now().Add(-tt.ended)
			}
			near, far := tcpPair(t)
			s := newSession(plain{near}, address(1))
			if tt.left > 0 {
				s.left = time.Now().Add(-tt.left)
			}
			p.mu.Lock()
			p.admit(s, v)
			p.mu.Unlock()
			go s.write()
			defer s.end(errClosed)
			p.opened(s, v, 1, address(1), address(2), opening{port: 80, clientPort: 1})
			_ = far.SetReadDeadline(time.Now().Add(20 * time.Second))
			answer := make([]byte, headerSize)
			if _, err := io.ReadFull(far, answer); err != nil {
				t.Fatal(err)
			}
			f, _, err := parseFrame(answer)
			if err != nil || f.kind != kindReset || reason(f.value) != tt.want {
				t.Errorf("the answer is kind %d, %q, %v", f.kind, reason(f.value), err)
			}
			if in, all := p.inbound.used.Load(), p.node.streams.used.Load(); in != 0 || all != 0 {
				t.Errorf("%d and %d streams are counted", in, all)
			}
		})
	}
}

// What TLS writes by itself because the peer wants it does not grow without a bound.
func TestUnsentIsBounded(t *testing.T) {
	near, _ := tcpPair(t)
	r := &records{Conn: near}
	if err := r.init(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16<<10)
	for range 2 * maxUnsent / len(b) {
		if _, err := r.Write(b); err != nil {
			if len(r.out) > maxUnsent+len(b) {
				t.Errorf("%d bytes wait", len(r.out))
			}
			return
		}
	}
	t.Error("all was kept")
}

// The sessions of pods that have many leave room for the node's other pods, in both directions.
func TestSessionsOfOtherPods(t *testing.T) {
	n := New("", slog.New(slog.DiscardHandler))
	n.sessions.most = 100
	greedy, modest := n.emptyPod(), n.emptyPod()
	admit := func(p *pod, from byte) (*session, *visitor) {
		s, v := newSession(nil, netip.AddrFrom4([4]byte{10, 0, 0, from})), &visitor{}
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.admit(s, v) {
			return nil, nil
		}
		return s, v
	}
	in := map[*session]*visitor{}
	for i := range byte(60) {
		if s, v := admit(greedy, i); s != nil {
			in[s] = v
		}
	}
	if len(in) != 24 {
		t.Errorf("%d sessions of 60 are taken by one pod", len(in))
	}
	taken := 0
	for greedy.onNode.take(1) {
		taken++
	}
	greedy.spec.Store(&Workload{Key: "a"})
	r := &route{pod: greedy, to: netip.MustParseAddr("10.0.0.1")}
	if _, err := r.session("spiffe://b", true); !errors.Is(err, errManySessions) {
		t.Errorf("a session from the same pod: %v", err)
	}
	if s, _ := admit(modest, 1); s == nil {
		t.Error("no room for another pod")
	}
	greedy.onNode.give(taken)
	for s, v := range in {
		greedy.dismiss(s, v)
	}
	if _, err := r.session("spiffe://b", true); err == nil || errors.Is(err, errManySessions) {
		t.Errorf("a session from the same pod, when the others are gone: %v", err)
	}
	if used := n.sessions.used.Load(); used != 1 {
		t.Errorf("%d are still counted", used)
	}
}

func TestNodeLimits(t *testing.T) {
	for _, c := range []struct {
		files             uint64
		streams, sessions int64
	}{{1024, 768, 128}, {20_000, 15_000, 2500}, {1 << 20, nodeStreams, nodeSessions}, {1<<64 - 1, nodeStreams, nodeSessions}} {
		if streams, sessions := nodeLimits(c.files); streams != c.streams || sessions != c.sessions {
			t.Errorf("%d files: %d streams and %d sessions", c.files, streams, sessions)
		}
	}
}
