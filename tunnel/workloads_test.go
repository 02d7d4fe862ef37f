package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// A workload without a certificate is no failure: its node would be sent HBONE for as long as each new identity waits for
// its first one.
func TestAnswerFollowsCertificate(t *testing.T) {
	n := New("", slog.New(slog.DiscardHandler))
	n.link.set(true)
	w := &Workload{Key: "ns/a", Revision: 7, Identity: "spiffe://td/ns/ns/sa/a"}
	n.answer(w, nil)
	if len(n.link.pending) > 0 || n.failed[w.Key] == nil {
		t.Errorf("without a certificate the answer is %+v, and it is tried again: %t", n.link.pending, n.failed[w.Key] != nil)
	}
	n.roots = x509.NewCertPool()
	n.svids[w.Identity] = &tls.Certificate{}
	n.answer(w, nil)
	if p := n.link.pending; len(p) != 1 || *p[0].Applied != (applied{Key: w.Key, Revision: 7}) || n.failed[w.Key] != nil {
		t.Errorf("with a certificate the answer is %+v", p)
	}
	n.answer(w, errors.New("no listener"))
	if p := n.link.pending; len(p) != 2 || p[1].Applied.Error != "no listener" || n.failed[w.Key] == nil {
		t.Errorf("without a listener the answer is %+v", p)
	}
}

// A namespace that came to the path of another one is another workload's: nobody listens there with this one's identity.
func TestNamespaceOfAnother(t *testing.T) {
	const path = "/proc/self/ns/net"
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	n := New("", slog.New(slog.DiscardHandler))
	for _, inode := range []uint64{0, st.Ino + 1} {
		if err := n.applyPod(&Workload{Key: "ns/a", NetNS: path, Inode: inode}); err == nil || len(n.pods) > 0 {
			n.remove("ns/a")
			t.Errorf("number %d is taken for %d", st.Ino, inode)
		}
	}
	if err := n.applyPod(&Workload{Key: "ns/a", NetNS: path, Inode: st.Ino}); err != nil || n.pods["ns/a"] == nil {
		t.Errorf("number %d is not taken: %v", st.Ino, err)
	}
	n.remove("ns/a")
}

func TestWorkloadWithoutNamespace(t *testing.T) {
	st := state.New(state.NewDB())
	s := &Server{st: st}
	w := &model.Workload{Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/a", Addresses: []netip.Addr{address(1)}}
	for _, inode := range []uint64{0, 7} {
		tx := st.Write(st.Placements)
		st.Placements.Put(tx, &model.Placement{Namespace: "ns", Name: "a", NetNS: w.NetNS, Inode: inode})
		tx.Commit()
		if sent := s.workload(st.Snapshot(), w); (sent != nil) != (inode != 0) || sent != nil && sent.Inode != inode {
			t.Errorf("the placement has number %d, and the tunnel is sent %+v", inode, sent)
		}
	}
}

// A port of the tunnel that a process of the pod has is told apart from what is wrong with the tunnel.
func TestPortOfThePodIsTaken(t *testing.T) {
	const path = "/proc/self/ns/net"
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("127.15.9.1")
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, model.PortTunnel).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := New("", slog.New(slog.DiscardHandler))
	n.link.set(true)
	w := &Workload{Key: "ns/a", NetNS: path, Inode: st.Ino, Addresses: []netip.Addr{at}, Identity: "spiffe://a/ns/ns/sa/a"}
	n.apply(w)
	defer n.remove(w.Key)
	p := n.link.pending
	if len(p) == 0 || p[0].Applied == nil || !p[0].Applied.PortTaken {
		t.Fatalf("the answer is %+v", p)
	}
	server := NewServer(state.New(state.NewDB()), Config{})
	server.links[&serverLink{sent: map[string]sentWorkload{w.Key: {w, 1}}, answers: map[string]*applied{w.Key: p[0].Applied}}] = struct{}{}
	if row := server.row(subjectOf(w.Key), nil); !row.PortTaken || row.Error == "" {
		t.Errorf("the row is %+v", row)
	}
}
