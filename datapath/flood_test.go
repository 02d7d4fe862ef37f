package datapath

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// dialMany connects many times to one address after the other, and returns how many connections were made, and how long it
// took.
func dialMany(t *testing.T, from *lab.Pod, to netip.AddrPort, many int) (made int, took time.Duration) {
	t.Helper()
	began := time.Now()
	if err := from.Do(func() error {
		for range many {
			if c, err := dialHere(to); err == nil {
				made++
				c.Close()
			} else if !refused(err) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return made, time.Since(began)
}

// mostIn is what a quota of so many a second lets through at most.
func mostIn(quota int, took time.Duration) int { return quota * (int(took/time.Second) + 2) }

// TestRefusedFloodLeavesRoomForOthers: connections that one address is refused make few events, and hide nobody else's.
func TestRefusedFloodLeavesRoomForOthers(t *testing.T) {
	n := newNode(t)
	outsider, strict, a, b := testenv.Pod(t, n.lab, "outsider"), testenv.Pod(t, n.lab, "strict"), testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(strict, model.MTLSStrict))
	for _, p := range []*lab.Pod{a, b} {
		put(n, n.st.Workloads, workload(p, model.MTLSDisabled))
	}
	n.sync()
	n.end()
	var floods, counted, others atomic.Int64
	n.onEvent = func(e Event) {
		switch {
		case e.Kind == EventRefused && e.Remote.Addr() == outsider.Address:
			floods.Add(1)
			counted.Add(1 + int64(e.More))
		case e.Kind == EventOpened && e.Workload == "ns/b":
			others.Add(1)
		}
	}
	n.onLost = func(count uint64) { t.Errorf("%d events found no room in the ring", count) }
	n.start()
	const many = 5000
	made, took := dialMany(t, outsider, netip.AddrPortFrom(strict.Address, 8080), many)
	if made > 0 {
		t.Errorf("%d connections got in", made)
	}
	target := netip.AddrPortFrom(b.Address, 8080)
	echo(t, b, "b", target.String())
	if _, err := ask(a, target); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other connection is seen, and what is left out is counted", func() bool {
		l, ok := n.st.Lost.Get(n.st.Snapshot(), model.LostRefusals)
		return ok && others.Load() > 0 && floods.Load()+int64(l.Count) >= many
	})
	if n, most := int(floods.Load()), mostIn(quotaRefused, took); n > most || n == 0 {
		t.Errorf("%d events of %d connections in %s, want 1 to %d", n, many, took, most)
	}
	eventually(t, "the first refusal of a later second counts those that made no event", func() bool {
		dialMany(t, outsider, netip.AddrPortFrom(strict.Address, 8080), 1)
		return counted.Load() > many
	})
}

// TestStrangersDoNotReachTheProxy: few connections come to Envoy's and weft tunnel's ports from addresses that are not of the
// mesh, few from the node's own, and all that come from peers, whether or not the workload takes others in the clear.
func TestStrangersDoNotReachTheProxy(t *testing.T) {
	for _, mode := range []model.MTLSMode{model.MTLSStrict, model.MTLSPermissive} {
		t.Run(mode.String(), func(t *testing.T) { strangersDoNotReachTheProxy(t, mode) })
	}
}

func strangersDoNotReachTheProxy(t *testing.T, mode model.MTLSMode) {
	n := newNode(t)
	outsider, target, peer := testenv.Pod(t, n.lab, "outsider"), testenv.Pod(t, n.lab, "target"), testenv.Pod(t, n.lab, "peer")
	put(n, n.st.Workloads, workload(target, mode))
	put(n, n.st.Workloads, workload(peer, model.MTLSStrict, func(w *model.Workload) { w.Local, w.NetNS = false, "" })) // on another node
	n.sync()
	n.proxy(target, hbone(target)...)
	const many = 500
	began, strangers, own := time.Now(), 0, 0
	for _, ip := range addrs(target) {
		to := netip.AddrPortFrom(ip, portHBONE)
		made, _ := dialMany(t, outsider, to, many)
		strangers += made
		for range 6 * many {
			if c, err := dialHere(to); err == nil {
				own++
				c.Close()
			}
		}
		if made, _ := dialMany(t, peer, to, 50); made != 50 {
			t.Errorf("%d of 50 connections of a peer to %s meanwhile", made, to)
		}
	}
	took := time.Since(began)
	if strangers > mostIn(quotaStrangers, took) || strangers == 0 {
		t.Errorf("%d of %d connections of a stranger in %s, want 1 to %d", strangers, 2*many, took, mostIn(quotaStrangers, took))
	}
	if own > mostIn(quotaNode, took) || own == 0 {
		t.Errorf("%d of %d connections of the node in %s, want 1 to %d", own, 12*many, took, mostIn(quotaNode, took))
	}
	n.waitEvent("a stranger is told of", func(e Event) bool { return e.Reason == ReasonStrangers && e.Remote.Addr() == outsider.Address })
}

// The quotas of bpf/quota.h.
const quotaRefused, quotaStrangers, quotaNode = 32, 50, 500

func dialHere(to netip.AddrPort) (net.Conn, error) {
	return net.DialTimeout("tcp", to.String(), 10*time.Second)
}
