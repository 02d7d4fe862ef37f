package datapath

import (
	"fmt"
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
// mesh, few from nodes, and all that come from peers, whether or not the workload takes others in the clear. Who has to wait comes in
// later by itself.
func TestStrangersDoNotReachTheProxy(t *testing.T) {
	for _, mode := range []model.MTLSMode{model.MTLSStrict, model.MTLSPermissive} {
		for _, port := range []uint16{portHBONE, portTunnel} {
			t.Run(fmt.Sprintf("%s at %d", mode, port), func(t *testing.T) { strangersDoNotReachTheProxy(t, mode, port) })
		}
	}
}

// guests opens connections to both addresses of a pod until it has to wait, and compares how many there were with a rate a second.
func guests(t *testing.T, from *lab.Pod, target *lab.Pod, port uint16, rate int) {
	t.Helper()
	began, made := time.Now(), 0
	for _, ip := range addrs(target) {
		n, _ := openMany(t, from, netip.AddrPortFrom(ip, port), 20*rate)
		made += n
	}
	if most := rate + 1 + int(time.Since(began)*time.Duration(rate)/time.Second); made > most || made < rate/2 {
		t.Errorf("%s opened %d connections to port %d, want %d to %d", from.Name, made, port, rate/2, most)
	}
}

func strangersDoNotReachTheProxy(t *testing.T, mode model.MTLSMode, port uint16) {
	n := newNode(t)
	pods := map[string]*lab.Pod{}
	for _, name := range []string{"target", "peer", "stranger", "second", "third", "fourth", "node", "other"} {
		pods[name] = testenv.Pod(t, n.lab, name)
	}
	target := pods["target"]
	put(n, n.st.Workloads, workload(target, mode))
	put(n, n.st.Workloads, workload(pods["peer"], model.MTLSStrict, func(w *model.Workload) { w.Local, w.NetNS = false, "" })) // on another node
	for _, name := range []string{"node", "other"} {
		put(n, n.st.NodeAddresses, &model.NodeAddresses{Source: "Node", Node: name, Addresses: addrs(pods[name])})
	}
	n.sync()
	var listen []string
	for _, ip := range addrs(target) {
		listen = append(listen, netip.AddrPortFrom(ip, port).String())
	}
	n.proxy(target, listen...)

	began := time.Now()
	guests(t, pods["stranger"], target, port, guestsOfAddress)
	guests(t, pods["node"], target, port, guestsOfNode)
	guests(t, pods["other"], target, port, guestsOfNode) // the other node's are not its own
	all := guestsOfAddress
	for _, name := range []string{"second", "third", "fourth"} {
		made, _ := openMany(t, pods[name], netip.AddrPortFrom(target.Address6, port), guestsOfAddress)
		all += made
	}
	if most := guestsUnknown + 1 + int(time.Since(began)*guestsUnknown/time.Second); all > most || all <= guestsOfAddress {
		t.Errorf("%d connections of four strangers in %s, want %d to %d", all, time.Since(began), guestsOfAddress+1, most)
	}
	began, own := time.Now(), 0
	for _, ip := range addrs(target) {
		for range 3 * guestsOfHost {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(ip, port).String(), 700*time.Millisecond)
			if err != nil {
				break
			}
			own++
			c.Close()
		}
		if made, _ := openMany(t, pods["peer"], netip.AddrPortFrom(ip, port), 50); made != 50 {
			t.Errorf("%d of 50 connections of a peer to %s meanwhile", made, ip)
		}
	}
	if most := guestsOfHost + 1 + int(time.Since(began)*guestsOfHost/time.Second); own > most || own == 0 {
		t.Errorf("%d connections of the node, want 1 to %d", own, most)
	}
	stranger := pods["stranger"]
	n.waitEvent("a stranger is told of", func(e Event) bool { return e.Reason == ReasonStrangers && e.Remote.Addr() == stranger.Address })
	guests(t, stranger, target, port, guestsOfAddress) // until it has to wait
	if line, err := ask(stranger, netip.AddrPortFrom(target.Address, port)); answer(line) != "proxy" {
		t.Errorf("a stranger that waited: %q %v", line, err)
	}
}

// TestForgedAddressesCutNobodyOff: packets that open connections to the ports of the mesh, and name addresses of others or of nobody,
// keep neither strangers nor nodes from connecting.
func TestForgedAddressesCutNobodyOff(t *testing.T) {
	n := newNode(t)
	target, stranger, gateway, forger := testenv.Pod(t, n.lab, "target"), testenv.Pod(t, n.lab, "stranger"), testenv.Pod(t, n.lab, "gateway"), testenv.Pod(t, n.lab, "forger")
	put(n, n.st.Workloads, workload(target, model.MTLSStrict))
	put(n, n.st.NodeAddresses, &model.NodeAddresses{Source: "Node", Node: "gateway", Addresses: addrs(gateway)})
	n.sync()
	n.proxy(target, hbone(target)...)
	for i, to := range addrs(target) {
		to := netip.AddrPortFrom(to, portHBONE)
		const many = 3 * guestsOfNodes
		nobody := addrs(forger)[i].Next().Next() // so that nobody resets what it did not begin: more than a socket's queue holds
		sendSYNs(t, forger, nobody, to, 6000)
		sendSYNs(t, forger, addrs(gateway)[i], to, many)
		sendSYNs(t, forger, addrs(stranger)[i], to, many)
		if made, _ := openMany(t, gateway, to, 20); made != 20 {
			t.Errorf("%d of 20 connections of another node to %s", made, to)
		}
		if made, _ := openMany(t, stranger, to, 5); made != 5 {
			t.Errorf("%d of 5 connections of a stranger to %s", made, to)
		}
	}
}

// quotaRefused is the one of bpf/quota.h.
const quotaRefused = 32

// The rates of bpf/guests.h.
const guestsOfAddress, guestsUnknown, guestsOfNode, guestsOfNodes, guestsOfHost = 40, 100, 60, 300, 500

func dialHere(to netip.AddrPort) (net.Conn, error) {
	return net.DialTimeout("tcp", to.String(), 10*time.Second)
}
