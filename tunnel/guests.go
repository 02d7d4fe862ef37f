package tunnel

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// expiredTime is how long the destination takes new streams of a peer whose certificate has ended, or which was told to open
// no more. A peer stops by itself; its clock may be behind.
const expiredTime = goAwayTime

// visitor is who opened a session to this pod.
type visitor struct {
	identity model.Identity
	until    time.Time // its certificate's end
	guest    *guest
}

// guest is what one address has of a pod. The sessions of the address share it.
type guest struct {
	sessions, streams *share
	here              int // sessions
}

// admit takes a session of an address. It reports false if there are too many. The lock is held.
func (p *pod) admit(s *session, v *visitor) bool {
	g := p.guests[s.remote]
	if g == nil {
		g = &guest{sessions: p.sessions.newShare(), streams: p.inbound.newShare()}
	}
	if !g.sessions.take(1) {
		return false
	}
	if !p.onNode.take(1) {
		g.sessions.give(1)
		return false
	}
	g.here++
	p.guests[s.remote], p.accepted[s], v.guest = g, v, g
	return true
}

// takeInbound counts a stream of a guest, and reports whether there is room for it.
func (p *pod) takeInbound(g *guest) bool {
	if !g.streams.take(1) {
		return false
	}
	if p.streams.take(1) {
		return true
	}
	g.streams.give(1)
	return false
}

func (p *pod) giveInbound(g *guest) {
	g.streams.give(1)
	p.streams.give(1)
}

// dismiss forgets a session that has ended.
func (p *pod) dismiss(s *session, v *visitor) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.accepted, s)
	v.guest.sessions.give(1)
	p.onNode.give(1)
	if v.guest.here--; v.guest.here == 0 && p.guests[s.remote] == v.guest {
		delete(p.guests, s.remote)
	}
}

// handshakes are connections whose peer is not known yet. They are bounded, those of an address too. When there are too many,
// the address with the most, or the one that has too many, gives up its oldest one, so that those who send nothing keep nobody
// away.
type handshakes struct {
	mu    sync.Mutex
	total int
	by    map[netip.Addr][]net.Conn // the oldest first
}

// add takes a connection, which may make its handshake.
func (h *handshakes) add(from netip.Addr, c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by = map[netip.Addr][]net.Conn{}
	}
	greedy, full := from, len(h.by[from]) >= maxHandshakesOf
	if !full && h.total >= maxHandshakes {
		full = true
		for a, conns := range h.by {
			if len(conns) > len(h.by[greedy]) {
				greedy = a
			}
		}
	}
	if full {
		oldest := h.by[greedy][0]
		h.drop(greedy, 0)
		_ = oldest.Close() // its goroutine sees that and ends
	}
	h.by[from] = append(h.by[from], c)
	h.total++
}

// done forgets a connection. It may have been forgotten already.
func (h *handshakes) done(from netip.Addr, c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.by[from], c); i >= 0 {
		h.drop(from, i)
	}
}

// drop forgets a connection. The lock is held.
func (h *handshakes) drop(from netip.Addr, i int) {
	h.total--
	if h.by[from] = slices.Delete(h.by[from], i, i+1); len(h.by[from]) == 0 {
		delete(h.by, from)
	}
}

func (h *handshakes) none() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total == 0
}
