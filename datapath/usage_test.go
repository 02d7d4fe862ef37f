package datapath

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/weft-mesh/weft/internal/sockdiag"
)

// TestUsageOfEveryMap: each map that can be full has a row, with its size. What the kernel keeps with sockets and for
// each processor cannot be.
func TestUsageOfEveryMap(t *testing.T) {
	n := newNode(t)
	quota := weftQuotaKey{Netns: 1, Kind: 1}
	if err := n.d.maps[weftMapQuotas].Put(quota, weftQuota{Second: 1, Used: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the maps that the agent writes have rows", func() bool {
		_, ok := n.st.MapUsage.Get(n.st.Snapshot(), weftMapNodes)
		return ok
	})
	rows := map[string]int{}
	entries := map[string]int{}
	counted, err := n.d.usage()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range counted {
		rows[m.Name], entries[m.Name] = m.Max, m.Entries
	}
	for m := range n.st.MapUsage.All(n.st.Snapshot()) {
		rows[m.Name] = m.Max
	}
	for name, m := range n.d.maps {
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.SockHash, ebpf.RingBuf:
			if rows[name] != int(m.MaxEntries()) {
				t.Errorf("map %s holds %d, and its row says %d", name, m.MaxEntries(), rows[name])
			}
		}
	}
	if entries[weftMapQuotas] == 0 {
		t.Error("an entry of quotas is not counted")
	}
}

// TestProxied: whatever Envoy and weft tunnel listen on in a pod ends when the pod leaves the mesh.
func TestProxied(t *testing.T) {
	at := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	for _, port := range []uint16{15001, 15002, 15003, 15004, 15005, 15006, 15008, 15009} {
		if !proxied(sockdiag.Socket{Local: at(port), Remote: at(40000)}) {
			t.Errorf("a connection to port %d counts as the pod's own", port)
		}
	}
	for _, port := range []uint16{15007, 15010, 8080} {
		if proxied(sockdiag.Socket{Local: at(port), Remote: at(40000)}) {
			t.Errorf("a connection to port %d counts as a proxy's", port)
		}
	}
}
