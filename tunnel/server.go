package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Config of a Server.
type Config struct {
	TrustDomain string
	// Flow gets what the tunnel saw of connections, and Lost how many such reports were dropped since the last one. They
	// must be quick, and neither may be nil. What was dropped is counted in state.Lost too, as model.LostTunnel.
	Flow func(*Flow)
	Lost func(uint64)
	Log  *slog.Logger
}

// Server sends to the tunnel of its node what the tables hold. It is the agent's part.
type Server struct {
	st  *state.State
	cfg Config

	reporting sync.Mutex

	losing sync.Mutex
	lost   map[string]uint64 // since this Server was made, by model.Lost's source

	intake intake

	mu    sync.Mutex
	conns []net.Conn // by age, at most mostLinks
	links map[*serverLink]struct{}
}

// NewServer reads from st.
func NewServer(st *state.State, cfg Config) *Server {
	return &Server{st: st, cfg: cfg, lost: map[string]uint64{}, intake: newIntake(), links: map[*serverLink]struct{}{}}
}

// Serve answers on l until ctx ends, and closes l. It sends nothing before st.Synced.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s.lose(model.LostTunnel, 0)
	s.lose(model.LostTunnelMessages, 0)
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tunnel: accept on %s: %w", l.Addr(), err)
		}
		leave := s.admit(c)
		wg.Go(func() {
			defer leave()
			if err := s.serve(ctx, c); err != nil && ctx.Err() == nil {
				s.cfg.Log.Debug("the link to the tunnel ended", "error", err)
			}
		})
		if s.intake.cost.WaitN(ctx, costLink) != nil {
			return nil
		}
	}
}

// workload returns what is sent for a local workload; nil for nothing: its placement names no namespace, and the next one at its path
// may be another workload's.
func (s *Server) workload(snap *state.Snapshot, w *model.Workload) *Workload {
	if !w.Local || w.NetNS == "" || len(w.Addresses) == 0 {
		return nil
	}
	inode, _ := s.st.NetNSInode(snap, w.NetNS)
	if inode == 0 {
		return nil
	}
	return &Workload{Key: w.Key(), NetNS: w.NetNS, Inode: inode, Addresses: w.Addresses, Identity: w.Identity, Policy: w.Policy}
}

// serverLink is one tunnel.
type serverLink struct {
	server *Server
	conn   net.Conn
	out    *json.Encoder

	// Of the goroutine of send.
	peers    map[netip.Addr]model.Identity
	revision uint64

	// Guarded by the server's lock.
	sent        map[string]sentWorkload
	answers     map[string]*applied
	gatewayPort uint16
	process     string
	began       time.Time
}

func (s *Server) serve(ctx context.Context, c net.Conn) error {
	defer c.Close()
	select {
	case <-s.st.Synced():
	case <-ctx.Done():
		return nil
	}
	l := &serverLink{
		server: s, conn: c, out: json.NewEncoder(c), peers: map[netip.Addr]model.Identity{},
		sent: map[string]sentWorkload{}, answers: map[string]*applied{}, began: time.Now(),
	}
	s.mu.Lock()
	s.links[l] = struct{}{}
	s.mu.Unlock()
	s.report(model.Tunnel)
	defer func() {
		s.mu.Lock()
		delete(s.links, l)
		lost := []model.Subject{model.Tunnel}
		for key := range l.sent {
			lost = append(lost, subjectOf(key))
		}
		s.mu.Unlock()
		s.report(lost...)
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	requests := make(chan tunnelMessage, 64)
	go func() { cancel(l.receive(ctx, requests)) }()
	go func() { <-ctx.Done(); c.Close() }()
	if err := l.send(ctx, requests); err != nil && ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// send sends everything, and then what changes.
func (l *serverLink) send(ctx context.Context, requests <-chan tunnelMessage) error {
	st := l.server.st
	feed := st.Feed(st.SVIDs, st.Bundles, st.Workloads, st.Placements)
	defer feed.Close()
	_, snap := feed.Take()
	if err := l.sendAll(snap); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			keys, snap := feed.Take()
			err = l.changed(keys, snap)
		case m := <-requests:
			err = l.want(m)
		}
		if err != nil {
			return err
		}
	}
}

func (l *serverLink) sendAll(snap *state.Snapshot) error {
	st := l.server.st
	errs := []error{l.write(&agentMessage{Hello: &hello{TrustDomain: l.server.cfg.TrustDomain}}), l.sendBundle(snap)}
	for v := range st.SVIDs.All(snap) {
		errs = append(errs, l.sendSVID(snap, v.Identity))
	}
	for w := range st.Workloads.By(snap, state.ByLocal, "true") {
		errs = append(errs, l.sendWorkload(snap, w.Key()))
	}
	return errors.Join(append(errs, l.write(&agentMessage{Synced: true}))...)
}

func (l *serverLink) changed(keys map[state.Key]struct{}, snap *state.Snapshot) error {
	st := l.server.st
	workloads := map[string]struct{}{}
	var errs []error
	for k := range keys {
		switch {
		case k.Table == st.SVIDs.ID() && k.Index == "":
			errs = append(errs, l.sendSVID(snap, model.Identity(k.Value)))
		case k.Table == st.Bundles.ID() && k.Index == "":
			errs = append(errs, l.sendBundle(snap))
		case k.Table == st.Workloads.ID() && k.Index == "":
			workloads[k.Value] = struct{}{}
		case k.Table == st.Placements.ID() && k.Index == state.ByNetNS:
			for w := range st.Workloads.By(snap, state.ByLocal, "true") {
				if w.NetNS == k.Value {
					workloads[w.Key()] = struct{}{}
				}
			}
		case k.Table == st.Workloads.ID() && k.Index == state.ByAddress:
			if a, err := netip.ParseAddr(k.Value); err == nil {
				if _, wanted := l.peers[a]; wanted {
					errs = append(errs, l.sendPeer(snap, a))
				}
			}
		}
	}
	for key := range workloads {
		errs = append(errs, l.sendWorkload(snap, key))
	}
	return errors.Join(errs...)
}

func (l *serverLink) sendWorkload(snap *state.Snapshot, key string) error {
	var want *Workload
	w, row, ok := l.server.st.Workloads.Revision(snap, key)
	if ok {
		want = l.server.workload(snap, w)
	}
	m := l.note(key, want, row)
	l.server.report(subjectOf(key))
	if m == nil {
		return nil
	}
	return l.write(m)
}

// note remembers what is sent to the tunnel for a workload, and returns the message; nil if the tunnel has it.
func (l *serverLink) note(key string, want *Workload, row uint64) *agentMessage {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	had, known := l.sent[key]
	if want == nil {
		delete(l.sent, key)
		delete(l.answers, key)
		if !known {
			return nil
		}
		return &agentMessage{Gone: key}
	}
	if known {
		want.Revision = had.Revision
		if reflect.DeepEqual(want, had.Workload) {
			l.sent[key] = sentWorkload{want, row}
			return nil
		}
	}
	l.revision++
	want.Revision = l.revision
	l.sent[key] = sentWorkload{want, row}
	return &agentMessage{Workload: want}
}

func (l *serverLink) sendSVID(snap *state.Snapshot, id model.Identity) error {
	m := &svid{Identity: id}
	if v, ok := l.server.st.SVIDs.Get(snap, string(id)); ok {
		m.Chain, m.Key = v.ChainPEM, v.KeyPEM
	}
	return l.write(&agentMessage{SVID: m})
}

func (l *serverLink) sendBundle(snap *state.Snapshot) error {
	b, ok := l.server.st.Bundles.Get(snap, l.server.cfg.TrustDomain)
	if !ok || len(b.PEM) == 0 {
		return nil
	}
	return l.write(&agentMessage{Bundle: b.PEM})
}

func (l *serverLink) sendPeer(snap *state.Snapshot, a netip.Addr) error {
	id := l.server.identityAt(snap, a)
	l.peers[a] = id
	return l.write(&agentMessage{Peer: &peer{Address: a, Identity: id}})
}

// identityAt is nobody's where workloads of different identities claim an address.
func (s *Server) identityAt(snap *state.Snapshot, a netip.Addr) model.Identity {
	var id model.Identity
	n := 0
	for w := range s.st.Workloads.By(snap, state.ByAddress, a.String()) {
		if n++; n > 1 {
			return ""
		}
		id = w.Identity
	}
	return id
}

// sendTimeout bounds the wait for a tunnel that does not read.
const sendTimeout = 10 * time.Second

func (l *serverLink) write(m *agentMessage) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	return l.out.Encode(m)
}
