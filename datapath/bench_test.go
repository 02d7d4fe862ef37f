package datapath

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// BenchmarkConnect compares opening a connection between pods without any program, with the programs but to the pod's
// own address, and through a Service. It prints ratios to the first; rounds are interleaved and the medians taken,
// because shared machines drift.
//
//	go test ./datapath -run '^$' -bench Connect -benchtime 1x
func BenchmarkConnect(b *testing.B) {
	n := newNode(b)
	n.end()
	n.quiet = true
	n.start()
	a, s := testenv.Pod(b, n.lab, "a"), testenv.Pod(b, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(s, model.MTLSDisabled))
	direct := netip.AddrPortFrom(s.Address, 8080)
	n.service(model.TCP, false, 0, direct)
	sink(b, s, direct)
	const rounds, each = 21, 1500
	times := map[string][]time.Duration{}
	for b.Loop() {
		for range rounds {
			n.end()
			if err := Detach(n.cfg); err != nil {
				b.Fatal(err)
			}
			times["direct"] = append(times["direct"], connects(b, a, direct, each))
			n.start()
			times["pod address"] = append(times["pod address"], connects(b, a, direct, each))
			times["service"] = append(times["service"], connects(b, a, vip(a.Address), each))
		}
	}
	median := func(name string) float64 {
		slices.Sort(times[name])
		return float64(times[name][len(times[name])/2]) / each
	}
	base := median("direct")
	b.ReportMetric(base, "ns/direct")
	b.ReportMetric(base/median("pod address"), "pod/direct")
	b.ReportMetric(base/median("service"), "service/direct")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPrograms says how long the programs take for one connection through a Service, from its opening to its end,
// by the kernel's own clock. That figure does not suffer from what else the machine does.
func BenchmarkPrograms(b *testing.B) {
	n := newNode(b)
	n.end()
	n.quiet = true
	n.start()
	a, s := testenv.Pod(b, n.lab, "a"), testenv.Pod(b, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(s, model.MTLSDisabled))
	direct := netip.AddrPortFrom(s.Address, 8080)
	n.service(model.TCP, false, 0, direct)
	sink(b, s, direct)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	const each = 5000
	for b.Loop() {
		for name, to := range map[string]netip.AddrPort{"pod": direct, "service": vip(a.Address)} {
			before := runtimes(b, n.cfg)
			connects(b, a, to, each)
			var sum time.Duration
			for p, t := range runtimes(b, n.cfg) {
				d := t - before[p]
				sum += d
				if d > 0 {
					b.Logf("%s: %-14s %6.0f ns", name, p, float64(d)/each)
				}
			}
			b.ReportMetric(float64(sum)/each, "bpf-ns/"+name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func runtimes(b *testing.B, cfg Config) map[string]time.Duration {
	b.Helper()
	out := map[string]time.Duration{}
	for _, dir := range []string{linkDir, podDir} {
		pins, _ := filepath.Glob(filepath.Join(cfg.PinDir, dir, "*"))
		for _, pin := range pins {
			l, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				b.Fatal(err)
			}
			info, err := l.Info()
			if err != nil {
				b.Fatal(err)
			}
			p, err := ebpf.NewProgramFromID(info.Program)
			if err != nil {
				b.Fatal(err)
			}
			s, err := p.Stats()
			if err != nil {
				b.Fatal(err)
			}
			name := filepath.Base(pin)
			if dir == podDir {
				name = weftProgInbound
			}
			out[name] += s.Runtime
			p.Close()
			l.Close()
		}
	}
	return out
}

// BenchmarkThroughput compares one stream.
func BenchmarkThroughput(b *testing.B) {
	n := newNode(b)
	n.end()
	n.quiet = true
	n.start()
	a, s := testenv.Pod(b, n.lab, "a"), testenv.Pod(b, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(s, model.MTLSDisabled))
	direct := netip.AddrPortFrom(s.Address, 8080)
	n.service(model.TCP, false, 0, direct)
	sink(b, s, direct)
	const rounds, size = 15, 256 << 20
	times := map[string][]time.Duration{}
	for b.Loop() {
		for range rounds {
			n.end()
			if err := Detach(n.cfg); err != nil {
				b.Fatal(err)
			}
			times["direct"] = append(times["direct"], stream(b, a, direct, size))
			n.start()
			times["service"] = append(times["service"], stream(b, a, vip(a.Address), size))
		}
	}
	for _, t := range times {
		slices.Sort(t)
	}
	d, v := times["direct"][rounds/2], times["service"][rounds/2]
	b.ReportMetric(float64(size)*8/float64(d), "Gbit/s-direct")
	b.ReportMetric(float64(d)/float64(v), "service/direct")
	b.ReportMetric(0, "ns/op")
}

// sink accepts connections and reads them to the end.
func sink(b *testing.B, p *lab.Pod, at netip.AddrPort) {
	l, err := p.Listen("tcp", at.String())
	if err != nil {
		b.Fatal(err)
	}
	serve(b, l, func(c net.Conn) {
		buf := make([]byte, 1<<17)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
}

// connects opens and resets connections one after the other, with bare system calls.
func connects(b *testing.B, p *lab.Pod, to netip.AddrPort, count int) time.Duration {
	b.Helper()
	var took time.Duration
	err := p.Do(func() error {
		sa := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		start := time.Now()
		for range count {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.Connect(fd, sa); err != nil {
				return err
			}
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return err
			}
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
		took = time.Since(start)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return took
}

func stream(b *testing.B, p *lab.Pod, to netip.AddrPort, size int) time.Duration {
	b.Helper()
	var took time.Duration
	err := p.Do(func() error {
		c, err := net.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			return err
		}
		defer f.Close()
		buf := make([]byte, 1<<17)
		start := time.Now()
		for sent := 0; sent < size; {
			m, err := f.Write(buf)
			if err != nil && !os.IsTimeout(err) {
				return err
			}
			sent += m
		}
		took = time.Since(start)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return took
}
