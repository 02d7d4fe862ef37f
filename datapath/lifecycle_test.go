package datapath

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// load opens connections through the Service until it is stopped, and counts.
type load struct {
	ok, failed atomic.Int64
	last       atomic.Value
	stop       func()
}

func newLoad(p *lab.Pod, to netip.AddrPort) *load {
	l := &load{}
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if _, err := ask(p, to); err != nil {
					l.failed.Add(1)
					l.last.Store(err.Error())
				} else {
					l.ok.Add(1)
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	return l
}

// more waits for n more connections.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	goal := l.ok.Load() + l.failed.Load() + n
	eventually(t, "connections go on", func() bool { return l.ok.Load()+l.failed.Load() >= goal })
}

func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	if l.failed.Load() > 0 || l.ok.Load() == 0 {
		t.Errorf("%d connections failed, %d succeeded; last error: %v", l.failed.Load(), l.ok.Load(), l.last.Load())
	}
}

// meshed makes a node with a client and two servers behind the Service.
func meshed(t *testing.T) (*node, *lab.Pod, []*lab.Pod) {
	t.Helper()
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	for _, p := range []*lab.Pod{a, b, c} {
		put(n, n.st.Workloads, workload(p, model.MTLSDisabled))
	}
	for _, p := range []*lab.Pod{b, c} {
		echo(t, p, p.Name, netip.AddrPortFrom(p.Address, 8080).String())
	}
	n.service(model.TCP, false, 0, netip.AddrPortFrom(b.Address, 8080), netip.AddrPortFrom(c.Address, 8080))
	return n, a, []*lab.Pod{b, c}
}

func TestAgentRestartKeepsTrafficAndEntries(t *testing.T) {
	n, a, _ := meshed(t)
	l := newLoad(a, vip(a.Address))
	defer l.stop()
	l.more(t, 20)
	before := n.numberOf(vip4)
	n.end()
	l.more(t, 20)

	// The next agent's model is empty at first: nothing may go before it is complete.
	full := n.st
	n.st = state.New(state.NewDB())
	n.start()
	l.more(t, 20)
	snap := full.Snapshot()
	for w := range full.Workloads.All(snap) {
		put(n, n.st.Workloads, w)
	}
	for e := range full.Endpoints.All(snap) {
		put(n, n.st.Endpoints, e)
	}
	for s := range full.Services.All(snap) {
		if s.Namespace != "sync" {
			put(n, n.st.Services, s)
		}
	}
	n.st.MarkSynced()
	n.sync()
	l.more(t, 20)
	l.check(t)
	if after := n.numberOf(vip4); after != before {
		t.Errorf("the Service's number went from %d to %d", before, after)
	}
	eventually(t, "everything was programmed since the start, without a fault", func() bool { return len(n.faults()) == 0 })
	if len(n.pods()) != 3 {
		t.Errorf("pods %v, want 3", n.pods())
	}
}

// numberOf returns the number of the Service at an address.
func (n *node) numberOf(a netip.Addr) uint32 {
	n.t.Helper()
	frontends, err := kernelTable[weftFrontendKey, weftFrontend]{n.d.maps[weftMapFrontends]}.All()
	if err != nil {
		n.t.Fatal(err)
	}
	return frontends[encodeFrontend(netip.AddrPortFrom(a, 80), model.TCP)].Service
}

func TestSyncedRemovesWhatIsLeftOver(t *testing.T) {
	n, a, _ := meshed(t)
	n.end()
	n.st = state.New(state.NewDB())
	n.start()
	if _, err := ask(a, vip(a.Address)); err != nil {
		t.Errorf("before the model is complete: %v", err)
	}
	n.st.MarkSynced()
	eventually(t, "the old entries are gone", func() bool {
		frontends, err1 := kernelTable[weftFrontendKey, weftFrontend]{n.d.maps[weftMapFrontends]}.All()
		slots, err2 := kernelTable[weftSlotKey, weftEndpoint]{n.d.maps[weftMapSlots]}.All()
		return err1 == nil && err2 == nil && len(frontends) == 1 && len(slots) == 0 // the test's own marker
	})
	eventually(t, "the old pods are gone", func() bool { return len(n.pods()) == 0 })
	pins, _ := filepath.Glob(filepath.Join(n.cfg.PinDir, podDir, "*"))
	if len(pins) > 0 {
		t.Errorf("links are left: %v", pins)
	}
	checkNoRules(t, a)
}

func checkNoRules(t *testing.T, p *lab.Pod) {
	t.Helper()
	err := p.Do(func() error {
		for _, family := range families() {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if r.Mark == proxyMark {
					t.Errorf("%s: rule is left: %v", p.Name, r)
				}
			}
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: proxyTable}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			if len(routes) > 0 {
				t.Errorf("%s: routes are left: %v", p.Name, routes)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestProgramsAreReplacedUnderLoad(t *testing.T) {
	n, a, _ := meshed(t)
	l := newLoad(a, vip(a.Address))
	defer l.stop()
	for range 5 {
		l.more(t, 50)
		n.end()
		n.start()
	}
	l.more(t, 50)
	l.check(t)
}

func TestBackendsChangeUnderLoad(t *testing.T) {
	n, a, servers := meshed(t)
	b, c := netip.AddrPortFrom(servers[0].Address, 8080), netip.AddrPortFrom(servers[1].Address, 8080)
	l := newLoad(a, vip(a.Address))
	defer l.stop()
	for range 10 {
		n.service(model.TCP, false, 0, b)
		l.more(t, 20)
		n.service(model.TCP, false, 0, c, b)
		l.more(t, 20)
		n.service(model.TCP, false, 0, c)
		l.more(t, 20)
	}
	l.check(t)
}

// Another version has maps of another layout: its programs come when these are filled.
func TestNewLayoutTakesOverWithoutAGap(t *testing.T) {
	n, a, _ := meshed(t)
	l := newLoad(a, vip(a.Address))
	defer l.stop()
	l.more(t, 20)
	n.end()
	old := meaning
	meaning = "next"
	defer func() { meaning = old }()
	full := n.st
	n.st = state.New(state.NewDB())
	n.start()
	retained := func() bool {
		row, ok := n.st.Programmed.Get(n.st.Snapshot(), "hook/connect4")
		return ok && strings.Contains(row.Error, "earlier version")
	}
	eventually(t, "the programs wait until the maps are filled", retained)
	l.more(t, 20)
	snap := full.Snapshot()
	for w := range full.Workloads.All(snap) {
		put(n, n.st.Workloads, w)
	}
	for e := range full.Endpoints.All(snap) {
		put(n, n.st.Endpoints, e)
	}
	for s := range full.Services.All(snap) {
		put(n, n.st.Services, s)
	}
	n.st.MarkSynced()
	eventually(t, "the programs are replaced", func() bool { return !retained() })
	l.more(t, 20)
	l.check(t)
	pins, _ := filepath.Glob(filepath.Join(n.cfg.PinDir, mapDir, weftMapFrontends+"-*"))
	if len(pins) != 1 {
		t.Errorf("pinned frontends: %v, want those of the new layout alone", pins)
	}
	if info, err := attached(n.cfg); err != nil || info != len(hooks) {
		t.Errorf("%d hooks are attached (%v), want %d", info, err, len(hooks))
	}
}

// attached counts the programs on the test's cgroups.
func attached(cfg Config) (int, error) {
	type place struct {
		path   string
		attach ebpf.AttachType
	}
	count, counted := 0, map[place]bool{}
	for _, h := range hooks {
		path := cfg.CgroupRoot
		if h.proxy {
			path = cfg.proxyOf()
		}
		at := place{path, h.attach}
		if counted[at] { // with all programs that are there
			continue
		}
		counted[at] = true
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			return 0, err
		}
		r, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: h.attach})
		f.Close()
		if err != nil {
			return 0, err
		}
		count += len(r.Programs)
	}
	return count, nil
}

func TestDetachLeavesNothing(t *testing.T) {
	n, a, servers := meshed(t)
	n.end()
	if err := Detach(n.cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.cfg.PinDir); !os.IsNotExist(err) {
		t.Errorf("pins are left: %v", err)
	}
	if _, err := os.Stat(n.cfg.proxyOf()); !os.IsNotExist(err) {
		t.Errorf("the proxy's cgroup is left: %v", err)
	}
	if got, err := attached(n.cfg); got != 0 || err != nil {
		t.Errorf("%d programs are attached still (%v)", got, err)
	}
	for _, p := range append(servers, a) {
		checkNoRules(t, p)
		if got := accepts(t, p); got != "0" {
			t.Errorf("%s: tcp_fwmark_accept is %s", p.Name, got)
		}
	}
	if err := Detach(n.cfg); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func accepts(t *testing.T, p *lab.Pod) string {
	var b []byte
	if err := p.Do(func() (err error) {
		b, err = os.ReadFile("/proc/sys/net/ipv4/tcp_fwmark_accept")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestPodsComeAndGo(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	// A namespace that is not there yet is an error of its workload alone.
	lateNS := "/run/netns/" + n.lab.Prefix + "-late"
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, func(w *model.Workload) { w.Name, w.NetNS = "late", lateNS }))
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	if f := n.faults(); len(f) != 1 || !strings.Contains(f[0], "ns/late") || !strings.Contains(f[0], lateNS) {
		t.Errorf("faults %v, want one that names ns/late and its namespace", f)
	}
	late := testenv.Pod(t, n.lab, "late")
	eventually(t, "the late pod joins", func() bool { return len(n.pods()) == 2 && len(n.faults()) == 0 })
	if got := accepts(t, late); got != "1" {
		t.Errorf("tcp_fwmark_accept is %s", got)
	}
	// Two workloads in one namespace: the first keeps it.
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled, func(w *model.Workload) { w.Name = "second" }))
	n.sync()
	if all := strings.Join(n.faults(), "\n"); !strings.Contains(all, "ns/second: network namespace "+b.NetNS+" is taken by workload ns/b") {
		t.Errorf("errors %v, want one that names both workloads", all)
	}
	remove(n, n.st.Workloads, "ns/second")
	remove(n, n.st.Workloads, "ns/late")

	// A pod leaves the mesh: Envoy's connections there end, its own stay.
	pp := n.proxy(b, proxyListeners...)
	_ = pp
	echo(t, a, "a", netip.AddrPortFrom(a.Address, 8080).String())
	own := mustOpen(t, b, a.Address, 8080)
	toProxy := mustOpen(t, b, netip.MustParseAddr("127.0.0.1"), portHTTP)
	remove(n, n.st.Workloads, "ns/b")
	n.sync()
	checkNoRules(t, b)
	if !broken(t, toProxy) {
		t.Error("a connection to the proxy lives on in the namespace that left")
	}
	if !alive(t, own) {
		t.Error("the workload's own connection was closed")
	}
}

func TestNamespaceIsGone(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	// The proxy's connection out of the pod pins the namespace.
	echo(t, a, "a", netip.AddrPortFrom(a.Address, 8080).String())
	pp := n.proxy(b)
	if line, err := pp.dial(t, netip.AddrPortFrom(a.Address, 8080), ""); answer(line) != "a" {
		t.Fatal(err)
	}
	var cookie uint64
	for cookie = range n.pods() {
	}
	if err := unix.Unmount(b.NetNS, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.NetNS); err != nil {
		t.Fatal(err)
	}
	// Whoever knows where pods run says so.
	put(n, n.st.Placements, &model.Placement{Namespace: "ns", Name: "b", NetNS: b.NetNS})
	eventually(t, "the pod is taken out", func() bool {
		return len(n.pods()) == 0 && strings.Contains(n.faultOf("ns/b"), b.NetNS)
	})
	if _, err := os.Stat((&kernelNamespaces{dir: filepath.Join(n.cfg.PinDir, podDir)}).pin(cookie)); !os.IsNotExist(err) {
		t.Errorf("the link is left: %v", err)
	}
	remove(n, n.st.Workloads, "ns/b")
	n.sync()
	if f := n.faults(); len(f) > 0 {
		t.Errorf("faults %v", f)
	}
}

func TestEventsHaveFigures(t *testing.T) {
	n, a, servers := meshed(t)
	c := mustOpen(t, a, vip4, 80)
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < 1000; {
		m, err := c.Read(make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		got += m
	}
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	is := func(k EventKind, in bool) func(Event) bool {
		return func(e Event) bool {
			return e.Kind == k && e.Inbound == in && (e.Local == local || in && e.Remote == local)
		}
	}
	n.waitEvent("opened", is(EventOpened, false))
	c.Close()
	e := n.waitEvent("closed", is(EventClosed, false))
	backend := e.Remote.Addr()
	if e.Workload != "ns/a" || e.Original != vip(a.Address) || e.Verdict != VerdictKernel || e.Sent < 1000 || e.Sent > 1002 ||
		e.Received < 1000 || e.RTT <= 0 || e.Duration <= 0 || backend != servers[0].Address && backend != servers[1].Address {
		t.Errorf("client's event %+v", e)
	}
	if age := time.Since(e.Time); age < 0 || age > time.Minute {
		t.Errorf("the event is from %s ago", age)
	}
	e = n.waitEvent("closed at the server", is(EventClosed, true))
	if e.Workload == "" || e.Received < 1000 || e.Local.Port() != 8080 {
		t.Errorf("server's event %+v", e)
	}
}

func TestCheckFindsNothingHere(t *testing.T) {
	testenv.Root(t)
	all := Check(testConfig(t))
	if got := missing(all); len(got) > 0 {
		t.Errorf("problems: %v", got)
	}
	var names []string
	for _, f := range all {
		if f.What == "" {
			t.Errorf("%s: nothing is said of what was found", f.Name)
		}
		names = append(names, f.Name)
	}
	want := []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "cgroup2", "bpffs", "BPF program types", "BPF map types", "BPF helpers", "SOCK_DESTROY", "BPF programs"}
	if !slices.Equal(names, want) {
		t.Errorf("looked for %q, want %q", names, want)
	}
}

// TestCheckDestroysAConnection: without the capability the kernel destroys nothing, and the check says so.
func TestCheckDestroysAConnection(t *testing.T) {
	testenv.Root(t)
	if f := checkDestroy(); f.Missing() {
		t.Errorf("here: %v", f)
	}
	without := make(chan Finding)
	go func() {
		runtime.LockOSThread() // the thread ends with its goroutine, and its capabilities with it
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			t.Error(err)
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Error(err)
		}
		without <- checkDestroy()
	}()
	if f := <-without; !f.Missing() || !strings.Contains(f.What, "operation not permitted") {
		t.Errorf("without CAP_NET_ADMIN: %v", f)
	}
}

// Two agents on one node would undo each other's work: the second one touches nothing, and nobody takes the hooks away
// from under the first.
func TestOneAgentAtATime(t *testing.T) {
	n, _, _ := meshed(t)
	before, err := attached(n.cfg)
	if err != nil || before == 0 {
		t.Fatal(before, err)
	}
	second, err := New(n.cfg, n.st)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Open(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), n.cfg.PinDir) {
		t.Errorf("a second agent: %v", err)
	}
	if err := Detach(n.cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("detached under a running agent: %v", err)
	}
	if now, err := attached(n.cfg); now != before || err != nil {
		t.Errorf("%d programs are attached, there were %d (%v)", now, before, err)
	}
	n.end()
	n.start()
	outside := n.cfg
	outside.ProxyCgroup = "../outside"
	if _, err := New(outside, n.st); err == nil || !strings.Contains(err.Error(), "below the cgroup2 mount") {
		t.Errorf("a cgroup outside of the mount: %v", err)
	}
}

// Another's program at a hook is named, ours are not.
func TestOtherPrograms(t *testing.T) {
	n, _, _ := meshed(t)
	if got, err := OtherPrograms(n.cfg); err != nil || len(got) > 0 {
		t.Fatalf("%v, %v", got, err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: n.cfg.CgroupRoot, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := []OtherProgram{{Hook: "cgroup/connect4", Program: "theirs"}}
	if got, err := OtherPrograms(n.cfg); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
