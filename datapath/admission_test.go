package datapath

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

const admissionRate = 50

// openMany opens connections, one after the other, until many are there or one has to wait. It returns how many there are, and how
// long that took.
func openMany(t *testing.T, from *lab.Pod, to netip.AddrPort, many int) (made int, took time.Duration) {
	t.Helper()
	return openManyIn(t, from.Do, to, many)
}

func openManyIn(t *testing.T, netns func(func() error) error, to netip.AddrPort, many int) (made int, took time.Duration) {
	t.Helper()
	began := time.Now()
	if err := netns(func() error {
		for range many {
			c, err := net.DialTimeout("tcp", to.String(), 700*time.Millisecond) // less than until a SYN is sent again
			if errors.Is(err, os.ErrDeadlineExceeded) || os.IsTimeout(err) {
				return nil
			}
			if err != nil {
				return err
			}
			c.Close()
			made++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return made, time.Since(began)
}

// greedy opens connections until it has to wait.
func greedy(t *testing.T, from *lab.Pod, to netip.AddrPort) {
	t.Helper()
	const many = 5000
	made, took := openMany(t, from, to, many)
	if most := admissionRate*(admissionBurst+1) + int(took*admissionRate/time.Second); made > most || made < admissionRate*admissionBurst {
		t.Errorf("%s opened %d connections to %s in %s, want %d to %d", from.Name, made, to, took, admissionRate*admissionBurst, most)
	}
}

// TestGreedySourcesWait: a pod that opens more connections than it may is made to wait, whatever it connects to, and others are not.
func TestGreedySourcesWait(t *testing.T) {
	n := newNode(t)
	n.end()
	n.cfg.AdmissionRate = admissionRate
	n.start()
	a, b, strict, outsider := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "strict"), testenv.Pod(t, n.lab, "outsider")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(strict, model.MTLSPermissive, policed))
	n.service(model.TCP, true, 0, netip.AddrPortFrom(strict.Address, 8080))
	n.proxy(a, proxyListeners...)
	n.proxy(b, proxyListeners...)
	n.proxy(strict, append(hbone(strict), inbound15006(strict)...)...)
	for i, ip := range addrs(a) {
		if i == 0 {
			greedy(t, a, vip(ip))
			e := n.waitEvent("that it has to wait", func(e Event) bool { return e.Kind == EventRefused && e.Reason == ReasonRate && e.Workload == "ns/a" })
			if e.Inbound || e.Original != vip(ip) || e.Verdict != VerdictRefused {
				t.Errorf("event %+v", e)
			}
		}
		// Both families count together.
		if made, took := openMany(t, a, vip(ip), 5000); made > admissionRate+int(took*admissionRate/time.Second) {
			t.Errorf("by %s it opened %d more in %s", ip, made, took)
		}
		if made, _ := openMany(t, b, vip(ip), 40); made != 40 {
			t.Errorf("%d of 40 connections of another pod meanwhile", made)
		}
	}
	eventually(t, "connections that wait are counted", func() bool {
		l, ok := n.st.Lost.Get(n.st.Snapshot(), model.LostConnections)
		return ok && l.Count > 0
	})

	// From outside the address counts, for all pods and ports together.
	greedy(t, outsider, netip.AddrPortFrom(strict.Address, 8080))
	n.waitEvent("that an outsider has to wait", func(e Event) bool {
		return e.Reason == ReasonRate && e.Workload == "ns/strict" && e.Inbound && e.Remote.Addr() == outsider.Address
	})
	if made, took := openMany(t, outsider, netip.AddrPortFrom(strict.Address, 8081), 5000); made > admissionRate+int(took*admissionRate/time.Second) {
		t.Errorf("at another port it opened %d in %s", made, took)
	}
	if made, _ := openMany(t, b, netip.AddrPortFrom(strict.Address, 8080), 20); made != 20 {
		t.Errorf("%d of 20 connections of another pod meanwhile", made)
	}

	// One that has to wait comes in by itself.
	if err := a.Do(func() error {
		c, err := net.DialTimeout("tcp", vip(a.Address).String(), 30*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Errorf("a connection that waited: %v", err)
	}
}

// TestProxysOwnConnectionsDoNotWait: Envoy's connections to weft tunnel, on the loopback of the node, are made for all pods, and have no
// bound together.
func TestProxysOwnConnectionsDoNotWait(t *testing.T) {
	n := newNode(t)
	n.end()
	n.cfg.AdmissionRate = admissionRate
	n.start()
	to := netip.MustParseAddrPort("127.0.0.1:45871")
	n.proxyIn(func(start func() error) error { return start() }, to.String())
	const many = 4 * admissionRate * admissionBurst
	if made, _ := openManyIn(t, func(open func() error) error { return open() }, to, many); made != many {
		t.Errorf("%d of %d connections", made, many)
	}
}

// TestForgedAddressUsesNobodysRate: a packet that opens a connection and names another's address counts against nobody, for it opens
// none.
func TestForgedAddressUsesNobodysRate(t *testing.T) {
	n := newNode(t)
	n.end()
	n.cfg.AdmissionRate = admissionRate
	n.start()
	strict, outsider, forger := testenv.Pod(t, n.lab, "strict"), testenv.Pod(t, n.lab, "outsider"), testenv.Pod(t, n.lab, "forger")
	put(n, n.st.Workloads, workload(strict, model.MTLSPermissive, policed))
	n.sync()
	n.proxy(strict, inbound15006(strict)...)
	sendSYNs(t, forger, outsider.Address, netip.AddrPortFrom(strict.Address, 8080), 5*admissionRate*admissionBurst)
	if made, _ := openMany(t, outsider, netip.AddrPortFrom(strict.Address, 8080), admissionRate*admissionBurst); made != admissionRate*admissionBurst {
		t.Errorf("%d connections of the forged address, want %d", made, admissionRate*admissionBurst)
	}
}

// sendSYNs sends packets that open connections, each from another port of an address that is not the sender's.
func sendSYNs(t *testing.T, sender *lab.Pod, from netip.Addr, to netip.AddrPort, many int) {
	t.Helper()
	family, dest := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, dest = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4()}
	}
	if err := sender.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range many {
			if err := unix.Sendto(fd, syn(netip.AddrPortFrom(from, uint16(20000+i)), to), 0, dest); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// syn is a packet of IPv4 or IPv6 (RFC 791, RFC 8200, RFC 9293).
func syn(from, to netip.AddrPort) []byte {
	ends := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	ip := []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}
	if to.Addr().Is6() {
		ip = []byte{0x60, 0, 0, 0, 0, 20, unix.IPPROTO_TCP, 64}
	}
	tcp := binary.BigEndian.AppendUint16(nil, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = append(tcp, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0)
	pseudo := append(append([]byte{}, ends...), 0, unix.IPPROTO_TCP, 0, byte(len(tcp)))
	sum := uint32(0)
	for all := append(pseudo, tcp...); len(all) > 0; all = all[2:] {
		sum += uint32(binary.BigEndian.Uint16(all))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return append(append(ip, ends...), tcp...)
}
