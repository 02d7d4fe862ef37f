package hostaddr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// announcing is a node of several, which is a pod on the lab's bridge, with an Announcer and a server on the Gateway's
// addresses, where they are local or not.
type announcing struct {
	*lab.Pod
	t     *testing.T
	st    *state.State
	addrs []netip.Addr
	stop  func()
}

func newAnnouncing(t *testing.T, l *lab.Lab, name string, addrs ...netip.Addr) *announcing {
	n := &announcing{Pod: testenv.Pod(t, l, name), t: t, addrs: addrs}
	for _, a := range addrs {
		n.listen(netip.AddrPortFrom(a, 80))
	}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start is an agent's start: what was announced is not known yet.
func (n *announcing) start() {
	n.st = state.New(state.NewDB())
	w := n.st.Write(n.st.Gateways)
	n.st.Gateways.Put(w, &model.Gateway{Namespace: "ns", Name: "gw", Addresses: n.addrs})
	w.Commit()
	n.st.MarkSynced()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		log := slog.New(slog.NewTextHandler(testWriter{n.t}, nil))
		var g errgroup.Group
		g.Go(func() error {
			return n.Do(func() error {
				host, err := Watch(n.st, log)
				if err != nil {
					return err
				}
				return host.Run(ctx)
			})
		})
		g.Go(func() error { return n.Do(func() error { return NewAnnouncer(log).Run(ctx, n.st) }) })
		done <- g.Wait()
	}()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("%s: %v", n.Name, err)
		}
		n.stop = func() {}
	}
}

// elect lets the node learn who answers for the addresses.
func (n *announcing) elect(node string, holders ...string) {
	w := n.st.Write(n.st.Announcements)
	for _, a := range n.addrs {
		n.st.Announcements.Put(w, &model.Announcement{Address: a, Node: node, Here: node == n.Name, Holders: holders})
	}
	w.Commit()
}

// listen serves the node's name on an address that need not be there, as Envoy does.
func (n *announcing) listen(at netip.AddrPort) {
	var l net.Listener
	err := n.Do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}), err)
		}}
		l, err = lc.Listen(context.Background(), "tcp", at.String())
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	serve(n.t, l, func(c net.Conn) {
		defer c.Close()
		fmt.Fprint(c, n.Name)
	})
}

// mac is the node's hardware address.
func (n *announcing) mac() string {
	return net.HardwareAddr(append([]byte{0x02, 0x77}, n.Address.AsSlice()...)).String()
}

// has reports whether the addresses are on the node's link, as ours.
func (n *announcing) has(addr netip.Addr) bool {
	has := false
	err := n.Do(func() error {
		list, err := listAddresses()
		for _, a := range list {
			has = has || a.ours && a.prefix.Addr() == addr && a.prefix.IsSingleIP()
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return has
}

// neighbour gives the hardware address that a pod's kernel keeps for an address, without asking for it.
func neighbour(t *testing.T, p *lab.Pod, addr netip.Addr) string {
	mac := ""
	err := p.Do(func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range list {
			if got, _ := netip.AddrFromSlice(n.IP); got.Unmap() == addr && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Fatal(err)
	}
	return mac
}

// who answers at an address.
func who(p *lab.Pod, addr netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second) // a SYN that is lost goes again after 1 s
	defer cancel()
	c, err := p.Dial(ctx, "tcp", netip.AddrPortFrom(addr, 80).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

func gatewayAddresses(l *lab.Lab) []netip.Addr {
	a4, a6 := l.Gateway.As4(), l.Gateway6.As16()
	a4[3], a6[15] = 200, 200
	return []netip.Addr{netip.AddrFrom4(a4), netip.AddrFrom16(a6)}
}

func TestOneNodeAnswers(t *testing.T) {
	l := newLab(t)
	addrs := gatewayAddresses(l)
	n1, n2 := newAnnouncing(t, l, "n1", addrs...), newAnnouncing(t, l, "n2", addrs...)
	client := testenv.Pod(t, l, "client")
	for _, addr := range addrs {
		if name, err := who(client, addr); err == nil {
			t.Errorf("%s answers at %s, though nobody is elected", name, addr)
		}
	}
	n1.elect("n1")
	n2.elect("n1")
	for _, addr := range addrs {
		eventually(t, "n1 has the address", func() bool { return n1.has(addr) })
		for _, from := range []*lab.Pod{client, n1.Pod, n2.Pod} {
			if name, err := who(from, addr); name != "n1" || err != nil {
				t.Errorf("from %s %q answers at %s (%v), want n1", from.Name, name, addr, err)
			}
		}
		if mac := neighbour(t, client, addr); mac != n1.mac() {
			t.Errorf("%s is at %s, want %s", addr, mac, n1.mac())
		}
		if n2.has(addr) {
			t.Errorf("n2 has %s", addr)
		}
		source(t, l, n1.Pod, addr)
	}
}

// source checks that the node's own connections do not come from a Gateway's address.
func source(t *testing.T, l *lab.Lab, node *lab.Pod, addr netip.Addr) {
	err := node.Do(func() error {
		to := l.Gateway
		if addr.Is6() {
			to = l.Gateway6
		}
		r, err := netlink.RouteGet(to.AsSlice())
		if err == nil && (len(r) != 1 || r[0].Src.Equal(addr.AsSlice())) {
			t.Errorf("the node's connections come from %v", r)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// While an address moves, first both nodes have it, then one: nothing is refused, at most the connection of the moment is
// cut, and neighbours learn of it without asking.
func TestTakeover(t *testing.T) {
	l := newLab(t)
	addrs := gatewayAddresses(l)
	n1, n2 := newAnnouncing(t, l, "n1", addrs...), newAnnouncing(t, l, "n2", addrs...)
	client, silent := testenv.Pod(t, l, "client"), testenv.Pod(t, l, "silent")
	n1.elect("n1", "n1")
	for _, addr := range addrs {
		eventually(t, "n1 has the address", func() bool { return n1.has(addr) })
		if name, err := who(silent, addr); name != "n1" {
			t.Fatal(name, err)
		}
	}
	stop, ended := make(chan struct{}), make(chan map[string]int)
	go func() {
		seen := map[string]int{}
		defer func() { ended <- seen }()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			name, err := who(client, addrs[i%2])
			switch {
			case errors.Is(err, unix.ECONNRESET):
				name = "cut"
			case err != nil:
				t.Errorf("at %s: %v", addrs[i%2], err)
			}
			seen[name]++
		}
	}()
	time.Sleep(100 * time.Millisecond)
	n2.elect("n2", "n2")
	for _, addr := range addrs {
		eventually(t, "n2 has the address", func() bool { return n2.has(addr) })
	}
	n1.elect("n2", "n2")
	for _, addr := range addrs {
		eventually(t, "n1 has given the address up", func() bool { return !n1.has(addr) })
		eventually(t, "neighbours know", func() bool {
			return neighbour(t, client, addr) == n2.mac() && neighbour(t, silent, addr) == n2.mac()
		})
	}
	time.Sleep(100 * time.Millisecond)
	close(stop)
	seen := <-ended
	if seen["n1"] == 0 || seen["n2"] == 0 || seen["cut"] > len(addrs) {
		t.Errorf("answers came from %v", seen)
	}
	for _, addr := range addrs {
		if name, err := who(n1.Pod, addr); name != "n2" || err != nil {
			t.Errorf("from n1, %q answers at %s (%v)", name, addr, err)
		}
	}
}

// A node that dies takes its address with it only until another has it.
func TestTakeoverFromTheDead(t *testing.T) {
	l := newLab(t)
	addrs := gatewayAddresses(l)
	n1, n2 := newAnnouncing(t, l, "n1", addrs...), newAnnouncing(t, l, "n2", addrs...)
	client := testenv.Pod(t, l, "client")
	n1.elect("n1", "n1")
	for _, addr := range addrs {
		eventually(t, "n1 answers", func() bool { name, _ := who(client, addr); return name == "n1" })
	}
	link, err := netlink.LinkByName(n1.HostLink)
	if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	n2.elect("n2", "n2")
	began := time.Now()
	for _, addr := range addrs {
		eventually(t, "n2 answers", func() bool { name, _ := who(client, addr); return name == "n2" })
	}
	t.Logf("n2 answers on both addresses after %s", time.Since(began))
}

// An agent that ends leaves the addresses, the next one keeps them until it knows better, and Detach takes all away.
func TestAddressesOutliveTheAgent(t *testing.T) {
	l := newLab(t)
	addrs := gatewayAddresses(l)
	n := newAnnouncing(t, l, "n1", addrs...)
	all := func(want bool) func() bool {
		return func() bool { return n.has(addrs[0]) == want && n.has(addrs[1]) == want }
	}
	n.elect("n1", "n1")
	eventually(t, "addresses", all(true))
	n.stop()
	n.start()
	time.Sleep(200 * time.Millisecond)
	if !all(true)() {
		t.Error("an agent that does not know who answers took addresses away")
	}
	n.elect("n2", "n2")
	eventually(t, "addresses of another node go", all(false))
	n.elect("n1", "n1")
	eventually(t, "addresses", all(true))
	w := n.st.Write(n.st.Gateways)
	n.st.Gateways.Delete(w, "ns/gw")
	w.Commit()
	eventually(t, "addresses go with their Gateway", all(false))
	n.stop()
	n.start()
	n.elect("n1", "n1")
	eventually(t, "addresses", all(true))
	n.stop()
	if err := n.Do(removeLinkAddresses); err != nil || !all(false)() {
		t.Errorf("addresses are left after a cleanup (%v)", err)
	}
}

func TestGratuitousFrames(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	want := map[string][]string{
		"192.0.2.7": {
			"ffffffffffff0200000000090806 0001080006040001 020000000009c0000207 020000000009c0000207",
			"ffffffffffff0200000000090806 0001080006040002 020000000009c0000207 020000000009c0000207",
		},
		// Kernels take its checksum for right: see TestTakeover.
		"2001:db8::7": {"333300000001020000000009 86dd 60000000002 03aff 20010db8000000000000000000000007 " +
			"ff020000000000000000000000000001 8800f91620000000 20010db8000000000000000000000007 0201020000000009"},
	}
	for addr, frames := range want {
		got := gratuitous(netip.MustParseAddr(addr), mac)
		if len(got) != len(frames) {
			t.Fatalf("%s: %d frames, want %d", addr, len(got), len(frames))
		}
		for i, f := range got {
			if w := strings.ReplaceAll(frames[i], " ", ""); fmt.Sprintf("%x", f) != w {
				t.Errorf("%s: frame %x, want %s", addr, f, w)
			}
		}
	}
}

// Addresses that somebody takes from the link come back.
func TestFlushedAddressesComeBack(t *testing.T) {
	l := newLab(t)
	addrs := gatewayAddresses(l)
	n := newAnnouncing(t, l, "n1", addrs...)
	n.elect("n1", "n1")
	for range 2 {
		for _, addr := range addrs {
			eventually(t, "addresses", func() bool { return n.has(addr) })
		}
		if err := n.Do(removeLinkAddresses); err != nil {
			t.Fatal(err)
		}
	}
}
