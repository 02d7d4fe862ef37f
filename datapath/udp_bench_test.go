package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// BenchmarkUDPFlows says how long the programs that look at UDP take for a question to DNS and its answer, for another datagram
// and its answer, and for a TCP connection, both ends together, by the kernel's own clock: it does not suffer from what else the
// machine does. It prints them beside the time of one such question from end to end.
//
//	go test ./datapath -run '^$' -bench UDPFlows -benchtime 1x
func BenchmarkUDPFlows(b *testing.B) {
	n := newNode(b)
	a, s := testenv.Pod(b, n.lab, "a"), testenv.Pod(b, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(s, model.MTLSDisabled))
	n.quiet = true
	r := newUDPReader(b, n, time.Second)
	r.knows(a)
	r.knows(s)
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(s.Address, port) }
	sink(b, s, at(8080))
	udpEcho(b, s, "twelve bytes", at(53))
	udpEcho(b, s, "twelve bytes", at(5353))
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	for b.Loop() {
		for _, c := range []struct {
			name string
			each int
			run  func(count int) time.Duration
		}{
			{"reported-question", 400, func(count int) time.Duration { return asks(b, a, at(53), count) }},
			{"question", 20000, func(count int) time.Duration { return asks(b, a, at(53), count) }},
			{"datagram", 20000, func(count int) time.Duration { return asks(b, a, at(5353), count) }},
			{"connection", 2000, func(count int) time.Duration { return connects(b, a, at(8080), count) }},
		} {
			before := runtimes(b, n.cfg)
			took := c.run(c.each)
			var programs time.Duration
			for p, t := range runtimes(b, n.cfg) {
				if p == weftProgUdpEgress || p == weftProgUdpIngress {
					programs += t - before[p]
				}
			}
			b.ReportMetric(float64(programs)/float64(c.each), "bpf-ns/"+c.name)
			b.ReportMetric(float64(took)/float64(c.each), "ns/"+c.name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// asks sends datagrams one after the other, and waits for each answer.
func asks(b *testing.B, p *lab.Pod, to netip.AddrPort, count int) time.Duration {
	b.Helper()
	c := udpSocket(b, p, to, true)
	defer c.Close()
	question := []byte("a question of some length for it")
	answer := make([]byte, 100)
	start := time.Now()
	for range count {
		if _, err := c.Write(question); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}
