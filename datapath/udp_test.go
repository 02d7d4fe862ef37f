package datapath

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// udpReader is a node with a reader of what its programs say of UDP.
type udpReader struct {
	*node
	mu        sync.Mutex
	exchanges []Exchange
	messages  []DNSMessage
	stop      func()
}

func newUDPReader(t testing.TB, n *node) *udpReader {
	t.Helper()
	r := &udpReader{node: n}
	n.d.cfg.ExchangeIdle = 300 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.d.Datagrams(ctx, func(x Exchange) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.exchanges = append(r.exchanges, x)
		}, func(m DNSMessage) {
			r.mu.Lock()
			defer r.mu.Unlock()
			m.Data = slices.Clone(m.Data)
			r.messages = append(r.messages, m)
		}, func(uint64) {})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// knows waits until a pod's datagrams are seen.
func (r *udpReader) knows(p *lab.Pod) {
	r.t.Helper()
	eventually(r.t, "the address of "+p.Name+" is in the kernel", func() bool {
		for _, a := range addrs(p) {
			var v uint32
			if r.d.maps[weftMapLocals].Lookup(encodeAddr(a), &v) != nil {
				return false
			}
		}
		return true
	})
}

// TestUDPFlows: exchanges and messages of DNS at both ends, of a Service and of a pod, connected and not, by IPv4 and IPv6.
func TestUDPFlows(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	stranger := testenv.Pod(t, n.lab, "c") // no workload
	for _, p := range []*lab.Pod{a, b} {
		put(n, n.st.Workloads, workload(p, model.MTLSDisabled))
	}
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		udpEcho(t, b, "answer", netip.AddrPortFrom(ip, 5353))
		udpEcho(t, b, "twelve bytes", netip.AddrPortFrom(ip, 53))
		backends = append(backends, netip.AddrPortFrom(ip, 5353))
	}
	n.service(model.UDP, false, 0, backends...)
	r.knows(a)
	r.knows(b)
	for _, ip := range addrs(a) {
		i := slices.IndexFunc(backends, func(x netip.AddrPort) bool { return x.Addr().Is4() == ip.Is4() })
		server := backends[i]
		for _, connected := range []bool{true, false} {
			for _, to := range []netip.AddrPort{server, vip(ip)} {
				c := udpSocket(t, a, to, connected)
				for range 3 {
					udpAsk(t, c, to, connected)
				}
				r.wantExchanges(portOf(c), server, to)
				c.Close()
			}
		}
		dns := netip.AddrPortFrom(server.Addr(), 53)
		c := udpSocket(t, a, dns, true)
		question := slices.Repeat([]byte{'q'}, 300)
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		r.wantMessages(portOf(c), len(question))
		c.Close()
	}
	c := udpSocket(t, stranger, backends[0], true)
	udpAsk(t, c, backends[0], true)
	r.wantExchanges(portOf(c), backends[0], netip.AddrPort{})
	c.Close()
}

func portOf(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// wantExchanges waits for the exchange of a client's port with a server at both ends: three datagrams of one byte, three
// answers. Of a client that is no workload, to is not valid, and the server's end alone is seen.
func (r *udpReader) wantExchanges(port uint16, server, to netip.AddrPort) {
	r.t.Helper()
	var client, serving *Exchange
	eventually(r.t, "both ends of the exchange", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range r.exchanges {
			switch x := &r.exchanges[i]; {
			case x.Local.Port() == port && x.Remote == server:
				client = x
			case x.Remote.Port() == port && x.Local == server:
				serving = x
			}
		}
		return serving != nil && (client != nil || !to.IsValid())
	})
	if serving.Service.IsValid() || !serving.Inbound || serving.Sent != 6*serving.Received {
		r.t.Errorf("at the server: %+v", serving)
	}
	switch {
	case !to.IsValid() && client != nil:
		r.t.Errorf("an exchange of a pod that is no workload: %+v", client)
	case !to.IsValid():
	case client.Inbound, client.Sent != 3, client.Received != 18, client.Last.Before(client.First), client.Service.IsValid() != (to != server),
		client.Service.IsValid() && client.Service != to:
		r.t.Errorf("at the client, to %s: %+v", to, client)
	}
}

// wantMessages waits for a question and its answer of 12 bytes at both ends.
func (r *udpReader) wantMessages(port uint16, length int) {
	r.t.Helper()
	var got []DNSMessage
	eventually(r.t, "a question and its answer at both ends", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		got = nil
		for _, m := range r.messages {
			if m.Local.Port() == port || m.Remote.Port() == port {
				got = append(got, m)
			}
		}
		return len(got) == 4
	})
	egress := 0
	for _, m := range got {
		if m.Egress {
			egress++
		}
		question := m.Egress == (m.Local.Port() == port)
		if question && (m.Length != length || len(m.Data) != 276) || !question && string(m.Data) != "twelve bytes" {
			r.t.Errorf("%+v", m)
		}
	}
	if egress != 2 {
		r.t.Errorf("%d of the four messages are sent, want 2", egress)
	}
}

// TestUDPFlowsAreBounded: what a workload says beyond its quota is counted as lost.
func TestUDPFlowsAreBounded(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	r.knows(a)
	c := udpSocket(t, a, netip.AddrPortFrom(b.Address, 53), false)
	defer c.Close()
	lost := func(source string) uint64 {
		for l := range n.st.Lost.All(n.st.Snapshot()) {
			if l.Source == source {
				return l.Count
			}
		}
		return 0
	}
	message := make([]byte, 20)
	eventually(t, "messages of DNS are lost", func() bool {
		for range 4000 {
			_, _ = c.WriteToUDPAddrPort(message, netip.AddrPortFrom(b.Address, 53)) // nobody is there
		}
		return lost(model.LostDNS) > 0
	})
	eventually(t, "datagrams are lost", func() bool {
		for port := range uint16(1000) {
			_, _ = c.WriteToUDPAddrPort(message, netip.AddrPortFrom(b.Address, 1000+port))
		}
		return lost(model.LostExchanges) > 0
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.messages) == 0 || len(r.messages) > 60*2000 {
		t.Errorf("%d messages", len(r.messages))
	}
}
