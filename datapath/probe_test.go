package datapath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// Ports at which the workloads of these tests declare probes.
const (
	portProbeHTTP = 8081 + iota
	portProbeTCP
	portProbeTLS
	portProbeGRPC
	portNoProbe
)

// declared gives a workload a probe of each kind.
func declared(w *model.Workload) {
	w.Probes = []model.Probe{
		{Port: portProbeHTTP, Kind: model.ProbeHTTP, Target: "/healthz"}, {Port: portProbeHTTP, Kind: model.ProbeHTTP, Target: "/drain?now=1"},
		{Port: portProbeTCP, Kind: model.ProbeTCP}, {Port: portProbeTLS, Kind: model.ProbeHTTPS}, {Port: portProbeGRPC, Kind: model.ProbeGRPC},
	}
}

func echoAll(t testing.TB, p *lab.Pod) {
	for _, ip := range addrs(p) {
		for port := uint16(portProbeHTTP); port <= portNoProbe; port++ {
			echo(t, p, "app", netip.AddrPortFrom(ip, port).String())
		}
	}
}

// TestProbeIsAnsweredAsDeclared: the kubelet goes where a redirect or another Pod's probe sends it, so only what the Pod itself
// declares reaches the application.
func TestProbeIsAnsweredAsDeclared(t *testing.T) {
	long := "/" + strings.Repeat("x", 300)
	for name, change := range map[string][]func(*model.Workload){
		"strict":  {declared},
		"policed": {declared, policed, func(w *model.Workload) { w.MTLS, w.Identity = model.MTLSDisabled, "" }},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			b := testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(b, model.MTLSStrict, change...))
			n.sync()
			echoAll(t, b)
			for _, tt := range []struct {
				port uint16
				send string
				want bool
			}{
				{portProbeHTTP, "GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n", true},
				{portProbeHTTP, "GET /drain?now=1 HTTP/1.1\r\n" + strings.Repeat("X: "+long+"\r\n", 10) + "\r\n", true},
				{portProbeHTTP, "GET /healthz HTTP/1.1\n\n", false},
				{portProbeHTTP, "GET /healthz HTTP/1.0\r\n\r\n", false},
				{portProbeHTTP, "GET /healthz/../admin HTTP/1.1\r\n\r\n", false},
				{portProbeHTTP, "GET /drain HTTP/1.1\r\n\r\n", false},
				{portProbeHTTP, "GET /health", false},
				{portProbeHTTP, "GET " + long + " HTTP/1.1\r\n\r\n", false},
				{portProbeHTTP, "POST /healthz HTTP/1.1\r\n\r\n", false},
				{portProbeHTTP, "GET /healthz HTTP/1.1\x00\r\n\r\n", false},
				{portProbeHTTP, "\x16\x03\x01\x02\x00", false},
				{portProbeHTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
				{portProbeTCP, "GET /healthz HTTP/1.1\r\n\r\n", false},
				{portProbeTCP, "x", false},
				{portProbeTLS, "\x16\x03\x01\x02\x00", true},
				{portProbeTLS, "GET /healthz HTTP/1.1\r\n\r\n", false},
				{portProbeGRPC, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true},
				{portProbeGRPC, "GET /healthz HTTP/1.1\r\n\r\n", false},
			} {
				for _, ip := range addrs(b) {
					err := request(netip.AddrPortFrom(ip, tt.port), tt.send)
					if tt.want && err != nil || !tt.want && !errors.Is(err, unix.EACCES) {
						t.Errorf("%.40q to %s, port %d: %v, want it answered: %v", tt.send, ip, tt.port, err, tt.want)
					}
				}
			}
			n.waitEvent("an undeclared request is told of", func(e Event) bool {
				return e.Reason == ReasonUndeclared && e.Workload == "ns/b" && e.Local == netip.AddrPortFrom(b.Address6, portProbeTCP)
			})
			for _, ip := range addrs(b) {
				if _, err := fromHost(netip.AddrPortFrom(ip, portNoProbe)); name == "strict" && !refused(err) {
					t.Errorf("a port without a probe: %v", err)
				}
			}
		})
	}
}

// request sends something to an echo server and waits for it to come back.
func request(to netip.AddrPort, send string) error {
	c, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return ping(c, send)
}

// ping sends something on a connection to an echo server, and reads until it has come back.
func ping(c net.Conn, send string) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte(send)); err != nil {
		return err
	}
	var got strings.Builder
	in := bufio.NewReader(c)
	for !strings.HasSuffix(got.String(), send) {
		b, err := in.ReadByte()
		if err != nil {
			return fmt.Errorf("after %q: %w", got.String(), err)
		}
		got.WriteByte(b)
	}
	return nil
}

// TestProbesAreOfTheHostsOwnProcesses: pods in the host's network have the node's addresses, and whoever is on the bridge can
// say that he has them.
func TestProbesAreOfTheHostsOwnProcesses(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	kubepods, deep := filepath.Join(n.cfg.CgroupRoot, "kubepods"), filepath.Join(n.cfg.CgroupRoot, "kubepods", "besteffort", "pod1", "c")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(n.cfg.CgroupRoot, "kubelet")
	if err := os.MkdirAll(beside, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{deep, filepath.Dir(deep), filepath.Dir(filepath.Dir(deep)), kubepods, beside} {
			_ = os.Remove(dir)
		}
	})
	put(n, n.st.PodCgroups, &model.PodCgroup{Path: "kubepods"})
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, declared))
	n.sync()
	eventually(t, "the kubelet's cgroup is known", func() bool {
		var v uint32
		return n.d.maps[weftMapPodCgroups].Lookup(cgroupInode(kubepods), &v) == nil
	})
	echoAll(t, b)
	host, pod := n.process(beside), n.process(deep)
	for _, ip := range addrs(b) {
		to := netip.AddrPortFrom(ip, portProbeTCP)
		if line, err := host.dial(t, to, ""); answer(line) != "app" {
			t.Errorf("a process of the host to %s: %q %s", to, line, err)
		}
		if line, err := pod.dial(t, to, ""); line != "" {
			t.Errorf("a pod in the host's network is answered by %s: %q %s", to, line, err)
		}
	}
	if err := connectMapped(netip.AddrPortFrom(b.Address, portProbeTCP)); err != nil {
		t.Errorf("an IPv6 socket that speaks IPv4: %v", err)
	}
	if err := connectMapped(netip.AddrPortFrom(b.Address, portNoProbe)); err == nil {
		t.Error("an IPv6 socket that speaks IPv4 reaches a port without a probe")
	}
	claimNodeAddress(t, n, a, b)
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(b.Address, portProbeTCP), netip.AddrPortFrom(b.Address, portProbeHTTP)} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: n.lab.Gateway.AsSlice()}, Timeout: 2 * time.Second}
		err := a.Do(func() error {
			c, err := d.DialContext(context.Background(), "tcp4", to.String())
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			t.Errorf("a pod that claims the node's address is let in at %s", to)
		}
		n.waitEvent("the pod that claims the node's address is refused", func(e Event) bool {
			return e.Kind == EventRefused && e.Reason == ReasonPlaintext && e.Local == to && e.Remote.Addr() == n.lab.Gateway
		})
	}
}

// connectMapped connects by an IPv6 socket to an IPv4 address.
func connectMapped(to netip.AddrPort) error {
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000); err != nil {
		return err
	}
	return unix.Connect(s, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
}

// claimNodeAddress gives a pod the node's address on the bridge, and lets another pod believe it, as forged ARP would.
func claimNodeAddress(t *testing.T, n *node, a, b *lab.Pod) {
	t.Helper()
	var mac net.HardwareAddr
	err := a.Do(func() error {
		link, err := podLink()
		if err != nil {
			return err
		}
		mac = link.Attrs().HardwareAddr
		return netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: n.lab.Gateway.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Do(func() error {
		link, err := podLink()
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: n.lab.Gateway.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// podLink is the pod's link to the bridge, in the calling thread's namespace.
func podLink() (netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if l.Type() == "veth" {
			return l, nil
		}
	}
	return nil, errors.New("the pod has no link")
}

// process is one of the host, in a cgroup, that dials where it is told to.
func (n *node) process(cgroup string) *proxyProcess {
	n.t.Helper()
	cg, err := os.Open(cgroup)
	if err != nil {
		n.t.Fatal(err)
	}
	defer cg.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_FAKE_PROXY=,")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cg.Fd()), Pdeathsig: syscall.SIGKILL}
	return n.runProxy(cmd, cmd.Start)
}

// TestProbeOutlivesTheAgent: what is recorded of a connection is in the kernel.
func TestProbeOutlivesTheAgent(t *testing.T) {
	n := newNode(t)
	b := testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, declared))
	n.sync()
	echoAll(t, b)
	const get, other = "GET /healthz HTTP/1.1\r\n\r\n", "GET /admin HTTP/1.1\r\n\r\n"
	to := netip.AddrPortFrom(b.Address, portProbeHTTP)
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	judged := func(when string) {
		t.Helper()
		if err := ping(c, get); err != nil {
			t.Errorf("%s, on a connection that was there: %v", when, err)
		}
		if err := request(to, get); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := request(to, other); !errors.Is(err, unix.EACCES) {
			t.Errorf("%s, what is not declared: %v", when, err)
		}
	}
	judged("at first")
	n.end()
	judged("without an agent")
	n.start()
	judged("with the next agent")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, declared, policed))
	n.sync()
	judged("with a policy")
	if !n.d.probing(to, c.LocalAddr().(*net.TCPAddr).AddrPort()) {
		t.Error("the connection is not known as a probe's")
	}
	if err := attachedAgain(n); err != nil {
		t.Error(err)
	}
	judged("after somebody had detached the program")
	for _, send := range []string{other, get} { // nothing passes after what was refused
		if err := ping(c, send); !errors.Is(err, unix.EACCES) {
			t.Errorf("%.20q on a connection that was there: %v", send, err)
		}
	}
}

// attachedAgain detaches the program that judges what is sent, and waits until the agent has put it back.
func attachedAgain(n *node) error {
	m := n.d.maps[weftMapProbeSockets]
	err := link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: m.FD(), Program: n.d.hooks.programs.Programs[weftProgProbeSends], Attach: ebpf.AttachSkMsgVerdict,
	})
	if err != nil {
		return err
	}
	if r := checkProbeSends(m, n.d.hooks.programs.Programs[weftProgProbeSends]); r.found == "" || r.err != nil {
		return fmt.Errorf("nothing was found wrong: %v", r)
	}
	return nil
}

// TestPodCgroupsStayUntilSynced: an agent that starts does not know them yet, and a pod in the host's network must not count as
// the host meanwhile.
func TestPodCgroupsStayUntilSynced(t *testing.T) {
	kern := newFakeTables()
	kern.cgroups.entries[1], kern.cgroups.entries[2] = 1, 1
	inodes := map[string]uint64{"kubepods": 2, "new": 3}
	p, err := newPodCgroups(kern.tables(), func(path string) uint64 { return inodes[path] })
	if err != nil {
		t.Fatal(err)
	}
	st := state.New(state.NewDB())
	w := st.Write(st.PodCgroups, st.Placements)
	st.PodCgroups.Put(w, &model.PodCgroup{Path: "kubepods"})
	st.PodCgroups.Put(w, &model.PodCgroup{Path: "gone"})
	st.Placements.Put(w, &model.Placement{Namespace: "ns", Name: "p", UID: "u", Cgroup: "new"})
	w.Commit()
	for _, tt := range []struct {
		synced bool
		want   map[uint64]uint32
	}{
		{false, map[uint64]uint32{1: 1, 2: 1, 3: 1}},
		{true, map[uint64]uint32{2: 1, 3: 1}},
	} {
		if err := p.set(st, st.Snapshot(), tt.synced); err != nil {
			t.Fatal(err)
		}
		if got := kern.cgroups.entries; !maps.Equal(got, tt.want) {
			t.Errorf("synced %v: %v, want %v", tt.synced, got, tt.want)
		}
	}
}
