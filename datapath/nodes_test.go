package datapath

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// TestAddressesOfOtherNodes: each node has a number, and an address that two say they have counts by itself. Nothing is forgotten before
// everything was read.
func TestAddressesOfOtherNodes(t *testing.T) {
	f := newFakeNode(t)
	feed := f.st.Feed()
	defer feed.Close()
	a, b, shared := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.3")
	check := func(what string, want map[weftAddress]uint32) {
		t.Helper()
		keys, snap := feed.Take()
		f.rec.reconcile(snap, f.rec.dirty(keys, snap))
		if errs := f.faults(); len(errs) > 0 {
			t.Fatal(errs)
		}
		if !maps.Equal(f.kern.otherNodes.entries, want) {
			t.Errorf("%s: %v, want %v", what, f.kern.otherNodes.entries, want)
		}
	}
	says := func(source, node string, addrs ...netip.Addr) {
		write(f, f.st.NodeAddresses, &model.NodeAddresses{Source: source, Node: node, Addresses: addrs})
	}
	says("Node", "a", a)
	says("Lease", "a", a, shared)
	says("Lease", "b", b, shared)
	all := map[weftAddress]uint32{encodeAddr(a): nodeNumber("a"), encodeAddr(b): nodeNumber("b"), encodeAddr(shared): 0}
	check("three rows", all)
	f.rec.synced = false
	says("Lease", "b", b)
	says("Lease", "a")
	delete(all, encodeAddr(shared))
	check("not all was read", map[weftAddress]uint32{encodeAddr(a): nodeNumber("a"), encodeAddr(b): nodeNumber("b"), encodeAddr(shared): 0})
	f.rec.synced = true
	says("Lease", "a", a)
	check("one that nobody has any more", all)
}
