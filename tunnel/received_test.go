package tunnel

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/weft-mesh/weft/internal/model"
)

// links returns how many there are, how many answers are kept of them, and how long the longest error of these is, in bytes. The
// tests of this file play a tunnel that does not do what it was written to do.
func (s *serverTest) links() (links, answers, longest int) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	for l := range s.server.links {
		answers += len(l.answers)
		for _, a := range l.answers {
			longest = max(longest, len(a.Error))
		}
	}
	return len(s.server.links), answers, longest
}

// lost waits until what was dropped of a source is as wanted.
func (s *serverTest) lost(source string, want uint64) {
	s.t.Helper()
	var row *model.Lost
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if row, _ = s.st.Lost.Get(s.st.Snapshot(), source); row != nil && row.Count == want {
			return
		}
	}
	s.t.Fatalf("%s: the row is %+v, want %d", source, row, want)
}

// heard waits until the agent has handled all that a tunnel has sent before.
func (s *serverTest) heard(l *listener, port uint16) {
	s.t.Helper()
	l.say(tunnelMessage{GatewayPort: port})
	s.await(model.Tunnel, fmt.Sprint("port ", port), func(row *model.Carried, ok bool) bool { return ok && row.GatewayPort == port })
}

// TestLongMessage: one that is too long is skipped and counted, and the next is read.
func TestLongMessage(t *testing.T) {
	s := newServerTest(t)
	l := s.tunnel()
	for range 2 {
		if _, err := io.WriteString(l, `{"applied":{"key":"`+strings.Repeat("x", mostMessage)+"\"}}\n"); err != nil {
			t.Fatal(err)
		}
	}
	s.heard(l, 4001)
	s.lost(model.LostTunnelMessages, 2)
}

// TestAnswersForWorkloadsThatWereNotSent are not kept, and what is kept of an answer is short.
func TestAnswersForWorkloadsThatWereNotSent(t *testing.T) {
	s := newServerTest(t)
	s.put("spiffe://a/b", nil)
	l := s.tunnel()
	l.answer(strings.Repeat("x", 100<<10))
	for i := range 1000 {
		l.say(tunnelMessage{Applied: &applied{Key: fmt.Sprint("ns/pod-", i), Revision: 1, Error: "made up"}})
	}
	s.heard(l, 4001)
	if _, answers, longest := s.links(); answers != 1 || longest > mostText+10 {
		t.Errorf("%d answers are kept, want 1; the longest error has %d bytes, want %d at most", answers, longest, mostText)
	}
}

// TestPeersThatATunnelWants: those beyond a bound are dropped and counted; the others are answered again, also when it is reached.
func TestPeersThatATunnelWants(t *testing.T) {
	const most, more = 1000, 100
	s := newServerTest(t)
	s.server.intake.wanted = most
	l := s.tunnel()
	peers := make(chan netip.Addr, most+more)
	go func() {
		defer close(peers)
		for {
			var m agentMessage
			if l.in.Decode(&m) != nil {
				return
			}
			if m.Peer != nil {
				peers <- m.Peer.Address
			}
		}
	}()
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range most + more {
		l.say(tunnelMessage{Want: address(i)})
	}
	s.lost(model.LostTunnelMessages, more)
	l.say(tunnelMessage{Forget: address(1)})
	l.say(tunnelMessage{Want: address(most + more)})
	for range most {
		<-peers
	}
	if got, want := <-peers, address(most+more); got != want {
		t.Errorf("after one was forgotten %s is answered, want %s", got, want)
	}
	s.lost(model.LostTunnelMessages, more)
}

// TestFlowsOfATunnel: flows beyond those that one which works sends are dropped, in a message and in a second, and are counted. Texts
// are short.
func TestFlowsOfATunnel(t *testing.T) {
	var flows, lost atomic.Uint64
	longest := 0
	s := newServerTestWith(t, func(f *Flow) {
		flows.Add(1)
		longest = max(longest, len(f.Failure))
	}, func(n uint64) { lost.Add(n) })
	const burst = 4
	s.server.intake.flows = rate.NewLimiter(0, burst*flowsAtOnce)
	l := s.tunnel()
	l.say(tunnelMessage{Flows: make([]Flow, flowsAtOnce+7)})
	l.say(tunnelMessage{Flows: []Flow{{Workload: strings.Repeat("x", mostName+1)}, {Failure: strings.Repeat("ü", mostText)}}})
	s.heard(l, 4001)
	if flows.Load() != flowsAtOnce+1 || lost.Load() != 7+1 || longest > mostText+10 {
		t.Errorf("%d flows and %d lost, want %d and 8; the longest failure has %d bytes, want %d at most", flows.Load(), lost.Load(), flowsAtOnce+1, longest, mostText)
	}
	for range burst {
		l.say(tunnelMessage{Flows: make([]Flow, flowsAtOnce)})
	}
	s.heard(l, 4002)
	const sent = flowsAtOnce + 7 + 2 + burst*flowsAtOnce
	if flows.Load()+lost.Load() != sent || flows.Load() != (burst-1)*flowsAtOnce+1 {
		t.Errorf("%d flows and %d lost of %d", flows.Load(), lost.Load(), sent)
	}
	s.lost(model.LostTunnel, lost.Load())
}

// TestLinksOfTunnels: the oldest gives way to one too many.
func TestLinksOfTunnels(t *testing.T) {
	s := newServerTest(t)
	var all []*listener
	for i := range mostLinks + 1 {
		l := s.tunnel()
		s.heard(l, uint16(4000+i))
		all = append(all, l)
	}
	_ = all[0].SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, all[0]); err != nil {
		t.Errorf("the oldest link: %v, want its end", err)
	}
	if links, _, _ := s.links(); links != mostLinks {
		t.Errorf("%d links, want %d", links, mostLinks)
	}
	s.heard(all[mostLinks], 5000)
}

// TestOneTunnelIsWithinTheBounds: what one that works sends at most, and at once when an agent starts, is taken at once.
func TestOneTunnelIsWithinTheBounds(t *testing.T) {
	if flowsEach < flowsKept/flowsEvery.Seconds() || mostMessage < flowsAtOnce*(3*mostName+mostText) {
		t.Error("the flows of a tunnel that works are over a bound")
	}
	const workloads, peers = 1000, 100_000
	if workloads*(costRow+costMessage+200)+peers*(costMessage+50) > costBurst {
		t.Error("the first messages of a tunnel that works are read late")
	}
}
