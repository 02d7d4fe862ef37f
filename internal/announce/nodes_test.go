package announce

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// What a Lease says of transports holds for the renewal that it was written with: an older agent renews the Lease and
// leaves annotations that it does not know.
func TestLeaseSaysTransports(t *testing.T) {
	both := []model.Transport{model.TransportHBONE, model.TransportHTTP}
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)
	annotate := func(text string) func(*coordinationv1.Lease) {
		return func(l *coordinationv1.Lease) {
			l.Annotations[annotationAccepts] = renewal(l.Spec.RenewTime.Time) + " " + text
		}
	}
	for name, tc := range map[string]struct {
		change func(*coordinationv1.Lease)
		want   []model.Transport
	}{
		"as it was written":          {func(*coordinationv1.Lease) {}, both},
		"renewed by an older agent":  {func(l *coordinationv1.Lease) { l.Spec.RenewTime = &metav1.MicroTime{Time: at.Add(time.Second)} }, nil},
		"not said":                   {func(l *coordinationv1.Lease) { delete(l.Annotations, annotationAccepts) }, nil},
		"no time":                    {func(l *coordinationv1.Lease) { l.Annotations[annotationAccepts] = "hbone,http/1" }, nil},
		"nothing":                    {annotate(""), nil},
		"of a newer version":         {annotate("hbone,http/1,http/2,quic/1"), both},
		"HBONE only":                 {annotate("hbone"), both[:1]},
		"in another order, repeated": {annotate("http/1,hbone,http/1"), both},
		"too long":                   {annotate("hbone,http/1," + strings.Repeat("x", longestAccepts)), nil},
	} {
		l := &coordinationv1.Lease{}
		encode(l, Candidate{Node: "a", Accepts: both}, time.Second, at)
		l.Spec.RenewTime = &metav1.MicroTime{Time: l.Spec.RenewTime.Truncate(time.Microsecond)} // as it is stored
		tc.change(l)
		m, ok := decode(l)
		if !ok || !slices.Equal(m.Accepts, tc.want) {
			t.Errorf("%s: %v %v, want %v", name, ok, m.Accepts, tc.want)
		}
	}
}

func TestNodesTable(t *testing.T) {
	e := New(state.New(state.NewDB()), Config{Node: "a"})
	accepts := func(node string) bool { return e.st.NodeAccepts(e.st.Snapshot(), node, model.TransportHTTP) }
	says := func(node string, ts ...model.Transport) member {
		return member{Candidate: Candidate{Node: node, Accepts: ts}}
	}
	if accepts("b") {
		t.Error("an unknown node takes more than HBONE")
	}
	if !e.st.NodeAccepts(e.st.Snapshot(), "b", model.TransportHBONE) {
		t.Error("an unknown node does not take HBONE")
	}
	e.note(says("b", model.TransportHBONE, model.TransportHTTP), false)
	e.note(says("c", model.TransportHTTP), false)
	e.note(says("d", model.TransportHTTP), false)
	if !accepts("b") || !accepts("c") || !accepts("d") {
		t.Error("what nodes said is not in the table")
	}
	e.note(says("b", model.TransportHBONE), false)
	e.note(says("c", model.TransportHTTP), true)
	e.forgetNodes(map[string]bool{"b": true})
	if accepts("b") || accepts("c") || accepts("d") {
		t.Error("the table holds what a node took back, the node of a deleted Lease, or one that is not listed any more")
	}
}

// TestLeaseSaysAddresses: what a Lease says reaches the table, and goes with the Lease.
func TestLeaseSaysAddresses(t *testing.T) {
	var many []netip.Addr
	for i := range 2 * model.MaxNodeAddresses {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
	}
	e := New(state.New(state.NewDB()), Config{Node: "a"})
	table := func() []netip.Addr {
		row, ok := e.st.NodeAddresses.Get(e.st.Snapshot(), "Lease/b")
		if !ok {
			return nil
		}
		return row.Addresses
	}
	for _, tt := range []struct{ has, want []netip.Addr }{
		{[]netip.Addr{many[0], netip.MustParseAddr("2001:db8::7")}, []netip.Addr{many[0], netip.MustParseAddr("2001:db8::7")}},
		{[]netip.Addr{netip.MustParseAddr("127.0.0.1"), many[1]}, many[1:2]},
		{many, many[:model.MaxNodeAddresses]},
		{nil, nil},
		{many[:1], many[:1]},
	} {
		l := &coordinationv1.Lease{}
		encode(l, Candidate{Node: "b", Addresses: tt.has}, time.Second, time.Now())
		m, ok := decode(l)
		if !ok {
			t.Fatal("the Lease is not understood")
		}
		e.note(m, false)
		if got := table(); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.has, got, tt.want)
		}
	}
	e.forgetNodes(map[string]bool{"c": true})
	if got := table(); got != nil {
		t.Errorf("the table holds %v of a node without a Lease", got)
	}
}

// TestOwnAddresses: a node says the addresses of all its links, but not those that it has for Gateways.
func TestOwnAddresses(t *testing.T) {
	st := state.New(state.NewDB())
	w := st.Write(st.HostAddresses)
	for _, h := range []*model.HostAddress{
		{Link: 9, Prefix: netip.MustParsePrefix("10.42.1.0/32")}, // of a tunnel to other nodes' pods
		{Link: 2, Prefix: netip.MustParsePrefix("192.0.2.7/24"), Neighbours: true},
		{Link: 2, Prefix: netip.MustParsePrefix("2001:db8::7/64"), Neighbours: true},
		{Link: 2, Prefix: netip.MustParsePrefix("192.0.2.99/32"), Neighbours: true, Announced: true},
	} {
		st.HostAddresses.Put(w, h)
	}
	w.Commit()
	want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("10.42.1.0")}
	if got := ownAddresses(st, st.Snapshot()); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
