package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/weft-mesh/weft/internal/model"
)

// Bounds of what the agent takes from tunnels. A tunnel parses what anybody sends, and has few rights for that reason; so the
// agent does not rely on the tunnel's own bounds, which are lower.
const (
	// mostMessage bounds a message, in bytes: flowsAtOnce flows of the longest identities.
	mostMessage = 4 << 20
	// mostLinks bounds the links: there is one of the tunnel that works, and one of each that drains.
	mostLinks = 16
	// mostWanted bounds the addresses that a tunnel asks for: those that its pods have called in peerKept.
	mostWanted = 1 << 17
	// mostText and mostName bound texts that are kept, in bytes: why something failed, and a key or a SPIFFE ID.
	mostText, mostName = 1 << 10, 2 << 10
	// flowsEach bounds the flows of all tunnels in a second: as many as one keeps, which sends once a second. After a pause there
	// may be flowsBurst.
	flowsEach, flowsBurst = flowsKept, 8 * flowsKept
	// costEach bounds what all tunnels may cost in a second, and costBurst after a pause; what is beyond is read later. A message
	// costs its bytes and costMessage, or costRow if the agent writes a row for it. A link costs costLink.
	costEach, costBurst            = 16 << 20, 64 << 20
	costMessage, costRow, costLink = 256, 4 << 10, 1 << 20
	// linkBuffer is how many bytes are read at once.
	linkBuffer = 64 << 10
)

// intake bounds what all tunnels of the node send.
type intake struct {
	cost, flows *rate.Limiter
	wanted      int // addresses, of each
}

func newIntake() intake {
	return intake{cost: rate.NewLimiter(costEach, costBurst), flows: rate.NewLimiter(flowsEach, flowsBurst), wanted: mostWanted}
}

// paced reads as fast as the cost of the bytes allows.
type paced struct {
	ctx  context.Context
	in   io.Reader
	cost *rate.Limiter
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	if n > 0 {
		if e := p.cost.WaitN(p.ctx, n); e != nil {
			return n, e
		}
	}
	return n, err
}

// received is a tunnelMessage as the agent reads it.
type received struct {
	tunnelMessage
	Flows flowList `json:"flows"`
}

// flowList is the first flowsAtOnce flows of a list, and the number of the others: a flow takes a hundred times the memory of its
// shortest text.
type flowList struct {
	kept   []Flow
	beyond int
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *flowList) UnmarshalJSON(text []byte) error {
	in := json.NewDecoder(bytes.NewReader(text))
	if start, err := in.Token(); err != nil || start == nil {
		return err
	} else if start != json.Delim('[') {
		return errors.New("flows are not a list")
	}
	for in.More() {
		if len(l.kept) == flowsAtOnce {
			var skipped json.RawMessage
			if err := in.Decode(&skipped); err != nil {
				return err
			}
			l.beyond++
			continue
		}
		var x Flow
		if err := in.Decode(&x); err != nil {
			return err
		}
		l.kept = append(l.kept, x)
	}
	return nil
}

// cost is that of handling a message, besides its bytes.
func (m *received) cost() int {
	if m.Applied != nil || m.GatewayPort != 0 || m.Draining || m.Lost > 0 {
		return costRow
	}
	return costMessage
}

// lines reads the messages of a tunnel, a line each.
type lines struct {
	in   *bufio.Reader
	line []byte
}

// next returns the next message; nil for one that is too long.
func (r *lines) next() (*received, error) {
	line, long := r.line[:0], false
	for {
		part, err := r.in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if long = long || len(line)+len(part) > mostMessage; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		if err == nil {
			break
		}
	}
	if r.line = line; cap(line) > linkBuffer {
		r.line = nil // such a message is rare
	}
	if long {
		return nil, nil
	}
	m := &received{}
	return m, json.Unmarshal(line, m)
}

// receive reads what the tunnel sends, and passes requests for peers on.
func (l *serverLink) receive(ctx context.Context, requests chan<- tunnelMessage) error {
	s := l.server
	in := lines{in: bufio.NewReaderSize(&paced{ctx, l.conn, s.intake.cost}, linkBuffer)}
	for {
		m, err := in.next()
		if err != nil {
			return err
		}
		if m == nil {
			s.lose(model.LostTunnelMessages, 1)
			continue
		}
		if err := s.intake.cost.WaitN(ctx, m.cost()); err != nil {
			return err
		}
		switch {
		case m.Applied != nil:
			l.answered(m.Applied)
		case m.GatewayPort != 0:
			l.takes(m.GatewayPort, cut(m.Process))
		case m.Draining:
			l.takes(0, l.process)
		case m.Want.IsValid(), m.Forget.IsValid():
			select {
			case requests <- m.tunnelMessage:
			case <-ctx.Done():
				return nil
			}
		default:
			s.takeFlows(&m.Flows, m.Lost)
		}
	}
}

// answered notes what the tunnel says of a workload. One that it has not been sent may be gone again.
func (l *serverLink) answered(a *applied) {
	s := l.server
	s.mu.Lock()
	_, sent := l.sent[a.Key]
	if sent {
		a.Error = cut(a.Error)
		l.answers[a.Key] = a
	}
	s.mu.Unlock()
	if sent {
		s.report(subjectOf(a.Key))
	}
}

// takes notes where the tunnel takes Envoy's connections, 0 for nowhere.
func (l *serverLink) takes(port uint16, process string) {
	l.server.mu.Lock()
	l.gatewayPort, l.process = port, process
	l.server.mu.Unlock()
	l.server.report(model.Tunnel)
}

// want answers a request for the peer at an address. Past mostWanted it is dropped.
func (l *serverLink) want(m tunnelMessage) error {
	if !m.Want.IsValid() {
		delete(l.peers, m.Forget)
		return nil
	}
	if _, known := l.peers[m.Want]; !known && len(l.peers) >= l.server.intake.wanted {
		l.server.lose(model.LostTunnelMessages, 1)
		return nil
	}
	return l.sendPeer(l.server.st.Snapshot(), m.Want)
}

// takeFlows hands over flows, and counts those that tunnels dropped and those that are dropped here.
func (s *Server) takeFlows(list *flowList, lost uint64) {
	lost += uint64(list.beyond)
	if !s.intake.flows.AllowN(time.Now(), len(list.kept)) {
		lost += uint64(len(list.kept))
		list.kept = nil
	}
	for i := range list.kept {
		x := &list.kept[i]
		if len(x.Workload) > mostName || len(x.Local) > mostName || len(x.Peer) > mostName {
			lost++
			continue
		}
		x.Failure = cut(x.Failure)
		s.cfg.Flow(x)
	}
	if lost > 0 {
		s.lose(model.LostTunnel, lost)
		s.cfg.Lost(lost)
	}
}

// cut returns the beginning of a text of a tunnel.
func cut(text string) string {
	if len(text) <= mostText {
		return text
	}
	return strings.ToValidUTF8(strings.Clone(text[:mostText]), "") + " ..."
}

// lose counts what tunnels sent, or would have, and was dropped.
func (s *Server) lose(source string, n uint64) {
	s.losing.Lock()
	defer s.losing.Unlock()
	s.lost[source] += n
	w := s.st.Write(s.st.Lost)
	s.st.Lost.Put(w, &model.Lost{Source: source, Count: s.lost[source]})
	w.Commit()
}

// admit notes a connection, and ends the oldest if there are too many. leave forgets it.
func (s *Server) admit(c net.Conn) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns = append(s.conns, c); len(s.conns) > mostLinks {
		_ = s.conns[0].Close() // it ends
		s.conns = s.conns[1:]
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.conns, c); i >= 0 {
			s.conns = slices.Delete(s.conns, i, i+1)
		}
	}
}
