package datapath

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/hostaddr"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// testCgroup is a cgroup for the tests of this process, and the name of their pins. Programs are attached there: other
// processes of the machine do not notice, other runs of these tests included.
var testCgroup string

func TestMain(m *testing.M) {
	if os.Getenv("WEFT_FAKE_PROXY") != "" {
		os.Exit(fakeProxy())
	}
	number, release, err := testenv.Claim()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testCgroup = fmt.Sprintf("weft-dp-test%d", number)
	leave := release
	if os.Geteuid() == 0 {
		if root, err := CgroupMount(); err == nil {
			back := moveTo(filepath.Join(root, testCgroup, "self"), root)
			leave = func() { back(); release() }
		}
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	leave()
	os.Exit(code)
}

func moveTo(path, back string) func() {
	if err := os.MkdirAll(path, 0o755); err != nil {
		panic(err)
	}
	self := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), self, 0); err != nil {
		panic(err)
	}
	return func() {
		_ = os.WriteFile(filepath.Join(back, "cgroup.procs"), self, 0)
		_ = os.Remove(path)
		_ = os.Remove(filepath.Dir(path))
	}
}

// node is an agent's datapath with a model that tests write.
type node struct {
	t    testing.TB
	lab  *lab.Lab
	cfg  Config
	st   *state.State
	d    *Datapath
	stop func()
	mark int

	mu     sync.Mutex
	events []Event
	quiet  bool // events are read and dropped
	// onEvent and onLost are called in place of what the node does with events by itself; nil for that.
	onEvent func(Event)
	onLost  func(uint64)
}

func testConfig(t testing.TB) Config {
	t.Helper()
	root, err := CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		CgroupRoot: filepath.Join(root, testCgroup), PinDir: filepath.Join("/sys/fs/bpf", testCgroup),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// newNode makes a lab and an empty node that ends with the test.
func newNode(t testing.TB) *node {
	t.Helper()
	l := testenv.Lab(t)
	cfg := testConfig(t)
	if err := Detach(cfg); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, lab: l, cfg: cfg, st: state.New(state.NewDB())}
	n.st.MarkSynced()
	n.start()
	t.Cleanup(func() {
		n.end()
		if err := Detach(n.cfg); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) start() {
	n.t.Helper()
	d, err := New(n.cfg, n.st)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := d.Open(); err != nil {
		n.t.Fatal(err)
	}
	n.d = d
	host, err := hostaddr.Watch(n.st, n.cfg.Log)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := host.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
	wg.Go(func() {
		event, lost := n.event, func(uint64) {}
		if n.onEvent != nil {
			event, lost = n.onEvent, n.onLost
		}
		if err := d.Events(ctx, event, lost); err != nil {
			n.t.Error(err)
		}
	})
	n.stop = func() {
		cancel()
		wg.Wait()
		if err := d.Close(); err != nil {
			n.t.Error(err)
		}
	}
	n.sync()
}

// end stops the agent; its pins stay.
func (n *node) end() {
	if n.stop != nil {
		n.stop()
	}
	n.stop = nil
}

func (n *node) event(e Event) {
	if n.quiet {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
}

// waitEvent waits for an event.
func (n *node) waitEvent(what string, match func(Event) bool) Event {
	n.t.Helper()
	var found Event
	eventually(n.t, what, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, e := range n.events {
			if match(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("it never happened: %s", what)
}

// sync waits until all that was written to the model is in the kernel.
func (n *node) sync() {
	n.t.Helper()
	n.mark++
	addr := netip.AddrFrom4([4]byte{10, 255, byte(n.mark >> 8), byte(n.mark)})
	put(n, n.st.Services, &model.Service{
		Namespace: "sync", Name: "marker", Addresses: []netip.Addr{addr}, Ports: []model.ServicePort{{Port: 1, Protocol: model.TCP}},
	})
	eventually(n.t, "the kernel follows the model", func() bool {
		snap := n.st.Snapshot()
		_, revision, _ := n.st.Services.Revision(snap, "sync/marker")
		row, ok := n.st.Programmed.Get(snap, "service/sync/marker")
		return ok && row.Revision == revision
	})
}

// faults lists what is wrong, each with its subject.
func (n *node) faults() (out []string) {
	for p := range n.st.Programmed.All(n.st.Snapshot()) {
		if p.Error != "" {
			out = append(out, p.Key()+": "+p.Error)
		}
	}
	return out
}

// pods lists the workloads that the kernel knows.
func (n *node) pods() map[uint64]uint32 {
	n.t.Helper()
	pods, err := kernelTable[uint64, uint32]{n.d.maps[weftMapPods]}.All()
	if err != nil {
		n.t.Fatal(err)
	}
	return pods
}

func put[T any](n *node, table *state.Table[T], o T) {
	w := n.st.Write(table)
	table.Put(w, o)
	w.Commit()
}

func remove[T any](n *node, table *state.Table[T], key string) {
	w := n.st.Write(table)
	table.Delete(w, key)
	w.Commit()
}

// workload makes the model's view of a pod. Strict and permissive ones have an identity.
func workload(p *lab.Pod, mode model.MTLSMode, change ...func(*model.Workload)) *model.Workload {
	w := &model.Workload{
		Namespace: "ns", Name: p.Name, Addresses: []netip.Addr{p.Address, p.Address6}, MTLS: mode, Local: true, NetNS: p.NetNS,
	}
	if mode != model.MTLSDisabled {
		w.Identity = model.NewIdentity("td", "ns", p.Name)
	}
	for _, c := range change {
		c(w)
	}
	return w
}

var (
	vip4 = netip.MustParseAddr("10.96.7.1")
	vip6 = netip.MustParseAddr("fd96::7:1")
)

// service puts a Service on vip4 and vip6, port 80, with backends.
func (n *node) service(proto model.Protocol, l7 bool, affinity time.Duration, backends ...netip.AddrPort) {
	n.t.Helper()
	e := &model.Endpoints{Service: "ns/svc", Port: 80, Protocol: proto}
	for _, b := range backends {
		e.Backends = append(e.Backends, model.Endpoint{Address: b})
	}
	put(n, n.st.Endpoints, e)
	put(n, n.st.Services, &model.Service{
		Namespace: "ns", Name: "svc", Addresses: []netip.Addr{vip4, vip6}, Affinity: affinity,
		Ports: []model.ServicePort{{Port: 80, Protocol: proto, L7: l7}},
	})
	n.sync()
}

// echo serves in a pod: it writes name, then all it reads, to each peer.
func echo(t testing.TB, p *lab.Pod, name, addr string) {
	t.Helper()
	l, err := p.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, func(c net.Conn) {
		fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr())
		_, _ = io.Copy(c, c)
	})
}

func serve(t testing.TB, l net.Listener, handle func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// ask connects and gives the first line that the other end writes.
func ask(p *lab.Pod, to netip.AddrPort) (string, error) {
	c, line, err := open(p, to)
	if err == nil {
		c.Close()
	}
	return line, err
}

func open(p *lab.Pod, to netip.AddrPort) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		c.Close()
		return nil, "", err
	}
	return c, strings.TrimSpace(line), nil
}

// proxyProcess is a small Envoy: a process in the proxy's cgroup and a pod's namespace. It answers each connection with
// the port that it came to and SO_ORIGINAL_DST, and dials where it is told to.
type proxyProcess struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	once sync.Once
}

func (n *node) proxy(p *lab.Pod, listen ...string) *proxyProcess {
	n.t.Helper()
	return n.proxyIn(p.Do, listen...)
}

func (n *node) proxyIn(netns func(func() error) error, listen ...string) *proxyProcess {
	n.t.Helper()
	cg, err := os.Open(n.cfg.proxyOf())
	if err != nil {
		n.t.Fatal(err)
	}
	defer cg.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_FAKE_PROXY=,"+strings.Join(listen, ","))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cg.Fd()), Pdeathsig: syscall.SIGKILL}
	return n.runProxy(cmd, func() error { return netns(cmd.Start) })
}

func (n *node) runProxy(cmd *exec.Cmd, start func() error) *proxyProcess {
	n.t.Helper()
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := start(); err != nil {
		n.t.Fatal(err)
	}
	pp := &proxyProcess{cmd: cmd, in: in, out: bufio.NewReader(out)}
	n.t.Cleanup(pp.kill)
	if line, err := pp.out.ReadString('\n'); err != nil || line != "ready\n" {
		n.t.Fatalf("fake proxy: %q %v", line, err)
	}
	return pp
}

func (c Config) proxyOf() string {
	c, _ = c.withDefaults()
	return c.proxyPath()
}

func (p *proxyProcess) kill() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}

// dial lets the proxy connect and gives the first line that it read, or its error. It holds the connection.
func (p *proxyProcess) dial(t testing.TB, to netip.AddrPort, from string) (string, string) {
	t.Helper()
	fmt.Fprintf(p.in, "%s %s\n", to, from)
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var r struct{ Line, Err, Local string }
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatal(err)
	}
	if r.Err != "" {
		return "", r.Err
	}
	return r.Line, r.Local
}

var proxyListeners = []string{"127.0.0.1:15001", "127.0.0.1:15002", "127.0.0.1:15004", "[::1]:15001", "[::1]:15002", "[::1]:15004"}

func inbound15006(p *lab.Pod) []string {
	return []string{netip.AddrPortFrom(p.Address, portIn).String(), netip.AddrPortFrom(p.Address6, portIn).String()}
}

func fakeProxy() int {
	if err := listenAll(strings.Split(os.Getenv("WEFT_FAKE_PROXY"), ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	var held []net.Conn // else the garbage collector would close them
	defer runtime.KeepAlive(&held)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "hear" {
			if err := hear(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			continue
		}
		to, from, _ := strings.Cut(in.Text(), " ")
		var r struct{ Line, Err, Local string }
		c, line, err := proxyDial(to, from)
		if err != nil {
			r.Err = err.Error()
		} else {
			held = append(held, c)
			r.Line, r.Local = line, c.LocalAddr().String()
		}
		b, _ := json.Marshal(r)
		fmt.Println(string(b))
	}
	return 0
}

func listenAll(addrs []string) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	lc.SetMultipathTCP(false) // Envoy's are plain TCP, and a SOCKHASH takes no others
	for _, a := range addrs {
		if a == "" {
			continue
		}
		a, isDeaf := strings.CutPrefix(a, "deaf ")
		a, reads := strings.CutPrefix(a, "reading ")
		a, answers := strings.CutPrefix(a, "answering ")
		for range 2 { // as Envoy with two workers
			l, err := lc.Listen(context.Background(), "tcp", a)
			if err != nil {
				return err
			}
			if isDeaf {
				if err := deafen(l.(*net.TCPListener)); err != nil {
					return err
				}
			}
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					orig, err := originalDestination(c.(*net.TCPConn))
					if err != nil {
						orig = err.Error()
					}
					if reads {
						go tellWhatCame(c)
						continue
					}
					if answers {
						go answerAndTell(c)
						continue
					}
					fmt.Fprintf(c, "proxy %s %s\n", a, orig)
				}
			}()
		}
	}
	return nil
}

// tellWhatCame reads to the end, and then says what it read.
func tellWhatCame(c net.Conn) {
	defer c.Close()
	b, err := io.ReadAll(c)
	fmt.Fprintf(c, "read %q %v\n", b, err)
}

// answerAndTell answers what comes first, after a while in which the end may come, and says on its output when that has come.
func answerAndTell(c net.Conn) {
	defer c.Close()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		_, err = c.Read(b[n:])
	}
	fmt.Fprintf(c, "%q, ended: %t\n", b[:n], errors.Is(err, io.EOF))
	_ = c.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, c)
	fmt.Println("ended")
}

// deaf are the fake proxy's listeners that drop each SYN. Clients send theirs again.
var deaf []syscall.RawConn

func deafen(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	deaf = append(deaf, raw)
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	return errors.Join(err, serr)
}

func hear() error {
	for _, raw := range deaf {
		var serr error
		err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
		if err := errors.Join(err, serr); err != nil {
			return err
		}
	}
	return nil
}

func proxyDial(to, from string) (net.Conn, string, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from != "" {
		a, err := netip.ParseAddr(from)
		if err != nil {
			return nil, "", err
		}
		d.LocalAddr = &net.TCPAddr{IP: a.AsSlice()}
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, proxyMark)
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			})
		}
	}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	return c, strings.TrimSpace(line), err
}

// originalDestination asks as Envoy's original_dst filter does.
func originalDestination(c *net.TCPConn) (string, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	v4 := c.LocalAddr().(*net.TCPAddr).IP.To4() != nil
	var out netip.AddrPort
	var cerr error
	err = raw.Control(func(fd uintptr) {
		if v4 {
			var m *unix.IPv6Mreq // 20 bytes: enough for sockaddr_in
			if m, cerr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, 80); cerr == nil {
				b := m.Multiaddr
				out = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
			}
			return
		}
		var m *unix.IPv6MTUInfo // sockaddr_in6 and a number
		if m, cerr = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, 80); cerr == nil {
			out = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), encodePort(m.Addr.Port))
		}
	})
	if err != nil {
		return "", err
	}
	return out.String(), cerr
}
