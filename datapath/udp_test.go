package datapath

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
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

func newUDPReader(t testing.TB, n *node, idle time.Duration) *udpReader {
	t.Helper()
	r := &udpReader{node: n}
	n.d.cfg.ExchangeIdle = idle
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
func (n *node) knows(p *lab.Pod) {
	n.t.Helper()
	var cookie uint64
	err := p.Do(func() (err error) {
		cookie, err = ownNetnsCookie()
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the address of "+p.Name+" is in the kernel", func() bool {
		for _, a := range addrs(p) {
			var v uint32
			if n.d.maps[weftMapOwn].Lookup(weftOwnKey{Netns: cookie, Addr: encodeAddr(a)}, &v) != nil {
				return false
			}
		}
		return n.d.workloadNames()[cookie] != ""
	})
}

// TestUDPFlows: exchanges and messages of DNS at both ends, of a Service and of a pod, connected and not, by IPv4 and IPv6.
func TestUDPFlows(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n, 300*time.Millisecond)
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

// TestUDPFlowsAreOfTheirPods: what a network namespace says that gave itself a workload's address is not the workload's.
func TestUDPFlowsAreOfTheirPods(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n, 300*time.Millisecond)
	a, b, other := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled))
	r.knows(a)
	r.knows(b)
	exchanges, dns := netip.AddrPortFrom(b.Address, 5353), netip.AddrPortFrom(b.Address, 53)
	udpEcho(t, b, "answer", exchanges)
	udpEcho(t, b, "twelve bytes", dns)
	err := other.Do(func() error {
		if out, err := exec.Command("ip", "address", "add", a.Address.String()+"/32", "dev", "lo").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for i, to := range []netip.AddrPort{exchanges, dns} {
			from := netip.AddrPortFrom(a.Address, uint16(100+i))
			c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write(make([]byte, 20)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.AddrPort{exchanges, dns} {
		c := udpSocket(t, a, to, true)
		defer c.Close()
		if to == dns {
			_, err = c.Write(make([]byte, 300))
			r.wantMessages(portOf(c), 300)
		} else {
			for range 3 {
				udpAsk(t, c, to, true)
			}
			r.wantExchanges(portOf(c), to, to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.exchanges {
		if x.Local.Port() == 100 || x.Workload != "ns/a" && x.Workload != "ns/b" {
			t.Errorf("%+v", x)
		}
	}
	for _, m := range r.messages {
		if m.Local.Port() == 101 || m.Workload != "ns/a" && m.Workload != "ns/b" {
			t.Errorf("%+v", m)
		}
	}
}

// TestUDPExchangesOfAPodThatGoes end at the next look, in its name: the address may be another's soon.
func TestUDPExchangesOfAPodThatGoes(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	w := workload(a, model.MTLSDisabled)
	put(n, n.st.Workloads, w)
	n.knows(a)
	n.d.cfg.ExchangeIdle = time.Hour
	walk := newExchangeWalk(n.d)
	var got []Exchange
	collect := func() {
		if err := walk.collect(time.Now(), func(x Exchange) { got = append(got, x) }); err != nil {
			t.Fatal(err)
		}
	}
	collect()
	to := netip.AddrPortFrom(b.Address, 5353)
	udpEcho(t, b, "answer", to)
	c := udpSocket(t, a, to, true)
	defer c.Close()
	udpAsk(t, c, to, true)
	remove(n, n.st.Workloads, w.Key())
	eventually(t, "the exchange", func() bool {
		collect()
		return len(got) == 1
	})
	if got[0].Workload != w.Key() || got[0].Local.Port() != portOf(c) {
		t.Errorf("%+v", got[0])
	}
}

// TestSleepingReaderIsWoken by the next record.
func TestSleepingReaderIsWoken(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	n.knows(a)
	ctx, cancel := context.WithCancel(t.Context())
	records, done := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		done <- n.d.follow(ctx, recordStream{
			what: "DNS messages", ring: n.d.maps[weftMapDnsMessages], reader: readsDNS, sleep: time.Hour,
			look: func(time.Time, int) error { return nil },
			record: func([]byte, clock) error {
				records <- struct{}{}
				return nil
			},
		})
	}()
	c := udpSocket(t, a, netip.AddrPortFrom(b.Address, 53), false)
	defer c.Close()
	for range 2 {
		eventually(t, "the reader sleeps", func() bool {
			var sleeps uint32
			return n.d.maps[weftMapSleeping].Lookup(readsDNS, &sleeps) == nil && sleeps == 1
		})
		if _, err := c.WriteToUDPAddrPort(make([]byte, 20), netip.AddrPortFrom(b.Address, 53)); err != nil {
			t.Fatal(err)
		}
		<-records
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
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
	r := newUDPReader(t, n, 300*time.Millisecond)
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

// TestExchangesOfOneAreBounded: a pod that holds many exchanges open leaves room for those of others.
func TestExchangesOfOneAreBounded(t *testing.T) {
	n := newNode(t)
	for i := range maxExchanges + 60 {
		netns := uint64(1 << 40)
		if i < 10 {
			netns = 1 << 41
		}
		from := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i+1))
		k := weftExchangeKey{Local: encode(from), Remote: encode(from)}
		if err := n.d.maps[weftMapExchanges].Put(k, weftExchange{Netns: netns}); err != nil {
			t.Fatal(err)
		}
	}
	ended, err := newExchangeWalk(n.d).ended(nil, func(*weftExchange) bool { return false })
	if err != nil || len(ended) != 50 || slices.ContainsFunc(ended, func(k weftExchangeKey) bool { return decode(k.Local).Port() <= 10 }) {
		t.Errorf("%d exchanges end, want 50 of those that are too many: %v", len(ended), err)
	}
}

// TestDNSFloodLeavesRoomForOwnQuestions: what others send to a pod takes nothing of what it may ask.
func TestDNSFloodLeavesRoomForOwnQuestions(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n, time.Hour)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	n.knows(a)
	server := netip.AddrPortFrom(a.Address, 53)
	udpEcho(t, a, "", server)
	flood, question := udpSocket(t, b, server, true), udpSocket(t, a, netip.AddrPortFrom(b.Address, 53), false)
	defer flood.Close()
	defer question.Close()
	asked, message := 0, make([]byte, 20)
	for range 40 {
		for range 250 {
			_, _ = flood.Write(message)
		}
		if _, err := question.WriteToUDPAddrPort(message, netip.AddrPortFrom(b.Address, 53)); err == nil {
			asked++
		}
	}
	eventually(t, "all questions", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		seen := 0
		for _, m := range r.messages {
			if m.Egress && m.Local.Port() == portOf(question) {
				seen++
			}
		}
		return seen == asked && asked > 0
	})
}

// byTCP is a message of DNS behind its length, with a header of a query or its answer and one question, and some bytes.
func byTCP(response bool, more int) []byte {
	m := make([]byte, 2+12+more)
	m[0], m[1], m[7] = byte((12+more)>>8), byte(12+more), 1
	if response {
		m[4] = 0x80
	}
	return m
}

// TestDNSByTCP: of a connection to port 53 each segment that begins with a message is told, at both ends, and no other.
func TestDNSByTCP(t *testing.T) {
	n := newNode(t)
	r := newUDPReader(t, n, time.Hour)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	for _, p := range []*lab.Pod{a, b} {
		put(n, n.st.Workloads, workload(p, model.MTLSDisabled))
	}
	r.knows(a)
	r.knows(b)
	question, answer := byTCP(false, 20), byTCP(true, 700)
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		backends = append(backends, netip.AddrPortFrom(ip, 53))
	}
	n.service(model.TCP, false, 0, backends...)
	for _, ip := range addrs(b) {
		server := netip.AddrPortFrom(ip, 53)
		l := listenAt(t, b, server)
		go func() {
			defer l.Close()
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			in := make([]byte, len(question))
			for range 2 {
				if _, err := io.ReadFull(c, in); err != nil {
					return
				}
				_, _ = c.Write(answer)
				_, _ = c.Read(in) // that the client has read it
				_, _ = c.Write(slices.Repeat([]byte{0xff}, 50))
			}
		}()
		var c net.Conn
		if err := a.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", vip(ip).String(), 10*time.Second)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		for range 2 {
			if _, err := c.Write(question); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, len(answer))); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 50)); err != nil {
				t.Fatal(err)
			}
		}
		port := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
		c.Close()
		var got []DNSMessage
		eventually(t, "two questions and answers at both ends", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			got = slices.DeleteFunc(slices.Clone(r.messages), func(m DNSMessage) bool { return m.Local.Port() != port && m.Remote.Port() != port })
			return len(got) >= 8
		})
		for _, m := range got {
			asks := m.Egress == (m.Local.Port() == port)
			want := answer[2:]
			if asks {
				want = question[2:]
			}
			if client := m.Local.Port() == port; client != m.Service.IsValid() || client && m.Service != vip(ip) {
				t.Errorf("%s: %+v is to %s", server, m, m.Service)
			}
			if !m.TCP || m.Length != len(want) || string(m.Data) != string(want[:min(len(want), 276)]) || m.Workload == "" {
				t.Errorf("%s: %+v, want %d bytes", server, m, len(want))
			}
		}
		if len(got) != 8 {
			t.Errorf("%s: %d messages, want 8", server, len(got))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.exchanges) > 0 {
		t.Errorf("TCP is an exchange of datagrams: %+v", r.exchanges)
	}
}

func listenAt(t *testing.T, p *lab.Pod, at netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	if err := p.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return l
}
