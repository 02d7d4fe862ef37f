package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// listener is the end of a tunnel at a Server.
type listener struct {
	net.Conn
	t   *testing.T
	in  *json.Decoder
	out *json.Encoder
}

// answer answers the next workload that is sent to it.
func (l *listener) answer(failure string) {
	l.t.Helper()
	_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		var m agentMessage
		if err := l.in.Decode(&m); err != nil {
			l.t.Fatal(err)
		}
		if m.Workload != nil {
			l.say(tunnelMessage{Applied: &applied{Key: m.Workload.Key, Revision: m.Workload.Revision, Error: failure}})
			return
		}
	}
}

func (l *listener) say(m tunnelMessage) {
	l.t.Helper()
	if err := l.out.Encode(&m); err != nil {
		l.t.Fatal(err)
	}
}

// serverTest is a Server of one local workload.
type serverTest struct {
	t      *testing.T
	st     *state.State
	server *Server
	path   string
}

func newServerTest(t *testing.T) *serverTest {
	return newServerTestWith(t, func(*Flow) {}, func(uint64) {})
}

func newServerTestWith(t *testing.T, flow func(*Flow), lost func(uint64)) *serverTest {
	s := &serverTest{t: t, st: state.New(state.NewDB()), path: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s.server = NewServer(s.st, Config{TrustDomain: "a", Log: slog.New(slog.DiscardHandler), Flow: flow, Lost: lost})
	go func() { done <- s.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.st.MarkSynced()
	return s
}

func (s *serverTest) tunnel() *listener {
	s.t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return &listener{Conn: c, t: s.t, in: json.NewDecoder(c), out: json.NewEncoder(c)}
}

// put writes the workload, and gives the revision.
func (s *serverTest) put(id model.Identity, labels map[string]string) uint64 {
	w := &model.Workload{
		Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/none", Identity: id, Labels: labels,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
	tx := s.st.Write(s.st.Workloads, s.st.Placements)
	s.st.Workloads.Put(tx, w)
	s.st.Placements.Put(tx, &model.Placement{Namespace: "ns", Name: "a", NetNS: w.NetNS, Inode: 7})
	tx.Commit()
	_, revision, _ := s.st.Workloads.Revision(s.st.Snapshot(), w.Key())
	return revision
}

// row waits until the workload's row is as wanted; nil for none.
func (s *serverTest) row(want *model.Carried) {
	s.t.Helper()
	s.await(subjectOf("ns/a"), fmt.Sprintf("%+v", want), func(row *model.Carried, ok bool) bool {
		return !ok && want == nil || ok && want != nil && row.Revision == want.Revision && row.Error == want.Error
	})
}

// await waits until the row of a subject is as it should be.
func (s *serverTest) await(subject model.Subject, want string, good func(*model.Carried, bool) bool) {
	s.t.Helper()
	feed := s.st.Feed()
	defer feed.Close()
	timeout := time.After(10 * time.Second)
	for {
		feed.Take()
		row, ok := s.st.Carried.Get(s.st.Snapshot(), subject.Key())
		if good(row, ok) {
			return
		}
		select {
		case <-feed.Ready():
		case <-timeout:
			s.t.Fatalf("the row is %+v, want %s", row, want)
		}
	}
}

// TestCarried: the row of a workload says which revision of it the tunnel has in force.
func TestCarried(t *testing.T) {
	s := newServerTest(t)
	first := s.put("spiffe://a/b", nil)
	one := s.tunnel()
	s.row(&model.Carried{})
	one.answer("no certificate")
	s.row(&model.Carried{Error: "no certificate"})
	second := s.put("spiffe://a/c", nil)
	if second <= first {
		t.Fatal("the revision does not grow")
	}
	one.answer("")
	s.row(&model.Carried{Revision: second})

	t.Run("what the tunnel does not look at is in force at once", func(*testing.T) {
		s.row(&model.Carried{Revision: s.put("spiffe://a/c", map[string]string{"a": "b"})})
	})
	t.Run("a failure leaves the revision before in force", func(*testing.T) {
		before := s.put("spiffe://a/c", nil)
		s.row(&model.Carried{Revision: before})
		s.put("spiffe://a/d", nil)
		one.answer("no more sockets")
		s.row(&model.Carried{Revision: before, Error: "no more sockets"})
	})
	t.Run("one of two tunnels is enough", func(*testing.T) {
		now := s.put("spiffe://a/e", nil)
		one.answer("it ends")
		next := s.tunnel()
		next.answer("")
		s.row(&model.Carried{Revision: now})
		now = s.put("spiffe://a/f", nil)
		next.answer("")
		s.row(&model.Carried{Revision: now})
		one.answer("it ends")
		one.say(tunnelMessage{GatewayPort: 4001}) // comes after the answer
		s.await(model.Tunnel, "port 4001", func(row *model.Carried, ok bool) bool { return ok && row.GatewayPort == 4001 })
		s.row(&model.Carried{Revision: now})
		one.Close()
		s.row(&model.Carried{Revision: now})
		next.Close()
		s.row(nil)
	})
	t.Run("a workload that is gone has none", func(*testing.T) {
		now := s.put("spiffe://a/e", nil)
		last := s.tunnel()
		last.answer("")
		s.row(&model.Carried{Revision: now})
		tx := s.st.Write(s.st.Workloads)
		s.st.Workloads.Delete(tx, "ns/a")
		tx.Commit()
		s.row(nil)
	})
}

// TestGatewayPort: the row of the node's weft tunnel says where it takes connections of Gateways. The last one that came counts.
func TestGatewayPort(t *testing.T) {
	s := newServerTest(t)
	want := func(port uint16, connected bool) {
		t.Helper()
		s.await(model.Tunnel, fmt.Sprint("port ", port), func(row *model.Carried, ok bool) bool {
			return ok == connected && (!ok || row.GatewayPort == port)
		})
	}
	one := s.tunnel()
	want(0, true)
	one.say(tunnelMessage{GatewayPort: 4001})
	want(4001, true)
	two := s.tunnel()
	two.say(tunnelMessage{GatewayPort: 4002})
	want(4002, true)
	one.Close()
	want(4002, true)
	two.Close()
	want(0, false)
}
