package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/test/bench/wire"
)

// The benchmarks carry the bytes of two processes, as weft tunnel does for two pods of its node, and report what this process
// spends on it: CPU time is steadier than time where other processes run.

const roleVariable = "WEFT_TUNNEL_BENCHMARK"

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleVariable); role {
	case "":
		os.Exit(m.Run())
	case "server":
		err = wire.Serve(context.Background(), netip.MustParseAddrPort(os.Args[1]), role)
	case "client":
		var l wire.Load
		var r wire.Result
		if err = json.Unmarshal([]byte(os.Args[1]), &l); err == nil {
			if r, err = wire.Run(l); err == nil {
				err = json.NewEncoder(os.Stdout).Encode(r)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// as makes a process of this binary.
func as(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// secureSessions makes a session of two ends by TLS.
func secureSessions(b *testing.B, accept func(s *session, id uint32, o opening)) *session {
	b.Helper()
	a := newAuthority(b)
	const client, server = "spiffe://" + testDomain + "/ns/a/sa/client", "spiffe://" + testDomain + "/ns/a/sa/server"
	clientCred, serverCred := a.credentials(nil, client), a.credentials(nil, server)
	c, s, err, serverErr := handshake(b, clientCred.dialling(server), serverCred.accepting())
	if err != nil || serverErr != nil {
		b.Fatal(err, serverErr)
	}
	lowLatency(c.records.Conn)
	lowLatency(s.records.Conn)
	dialled, accepted := newSession(c, netip.Addr{}), newSession(s, netip.Addr{})
	accepted.accept = accept
	for _, s := range []*session{dialled, accepted} {
		go func() { _ = s.run() }()
		b.Cleanup(func() { s.end(errClosed) })
	}
	return dialled
}

// carrying serves a port of the loopback address whose connections go through a session to a server.
func carrying(b *testing.B) netip.AddrPort {
	b.Helper()
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	to := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	cmd := as("server", to.String())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if c, err := net.Dial("tcp4", to.String()); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	dialled := secureSessions(b, func(s *session, id uint32, _ opening) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			_ = unix.Connect(fd, sockaddr(to))
		}
		app, err := newSocket(fd)
		if err != nil {
			b.Error(err)
			return
		}
		s.mu.Lock()
		st := newStream(s, id, app)
		st.queued = true
		s.streams[id] = st
		s.mu.Unlock()
		go func() {
			_ = app.awaitConnected()
			st.connected()
		}()
	})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := listen(fd, netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		b.Fatal(err)
	}
	sa, _ := unix.Getsockname(fd)
	l, err := newSocket(fd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.interrupt)
	go func() {
		defer l.close()
		for {
			fd, _, err := l.accept()
			if err != nil {
				return
			}
			app, err := newSocket(fd)
			if err != nil {
				return
			}
			st, err := dialled.open(app, opening{port: 80, clientPort: 1})
			if err != nil {
				return
			}
			go st.pump()
		}
	}()
	return addrPort(sa)
}

func usage(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// load runs the client, and gives what it did and what this process spent.
func load(b *testing.B, l wire.Load) (wire.Result, time.Duration) {
	b.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		b.Fatal(err)
	}
	before := usage(b)
	out, err := as("client", string(text)).Output()
	if err != nil {
		b.Fatal(err)
	}
	var r wire.Result
	if err := json.Unmarshal(out, &r); err != nil || r.Failed > 0 {
		b.Fatal(err, r.Error)
	}
	return r, usage(b) - before
}

const benchmarkTime = 1 * time.Second

func BenchmarkOneStream(b *testing.B) {
	l := wire.Load{Target: carrying(b), Duration: benchmarkTime, Stream: true}
	for b.Loop() {
		r, cpu := load(b, l)
		b.ReportMetric(float64(r.Bytes)*8/1e9/r.Took.Seconds(), "Gbit/s")
		b.ReportMetric(cpu.Seconds()*1e3/(float64(r.Bytes)/1e9), "cpu-ms/GB")
	}
}

func BenchmarkRequests(b *testing.B) {
	for _, n := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := wire.Load{Target: carrying(b), Duration: benchmarkTime, Connections: n}
			for b.Loop() {
				r, cpu := load(b, l)
				b.ReportMetric(float64(r.Requests)/r.Took.Seconds(), "requests/s")
				b.ReportMetric(cpu.Seconds()*1e6/float64(r.Requests), "cpu-µs/request")
			}
		})
	}
}
