package datapath

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// closedPod joins pod b, strict or policed, and checks that a peer without an identity is refused.
func closedPod(t *testing.T, n *node, b *lab.Pod, change ...func(*model.Workload)) {
	t.Helper()
	a := testenv.Pod(t, n.lab, "a")
	for _, ip := range addrs(b) {
		echo(t, b, "app", netip.AddrPortFrom(ip, 8080).String())
	}
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, change...))
	n.sync()
	for _, ip := range addrs(b) {
		if line, err := ask(a, netip.AddrPortFrom(ip, 8080)); !refused(err) {
			t.Errorf("a peer without an identity was answered %q (%v) by a strict pod", line, err)
		}
	}
}

// faultOf returns what the datapath reports of a workload.
func (n *node) faultOf(workload string) string {
	row, ok := n.st.Programmed.Get(n.st.Snapshot(), "workload/"+workload)
	if !ok {
		return ""
	}
	return row.Error
}

func sysctl(t *testing.T, p *lab.Pod, name, value string) {
	t.Helper()
	if err := p.Do(func() error { return writeSysctl(name, value) }); err != nil {
		t.Fatal(err)
	}
}

// TestStrictPodWithoutIPv6IsClosed: a namespace without IPv6 is nothing unusual, and nothing to report.
func TestStrictPodWithoutIPv6IsClosed(t *testing.T) {
	for _, where := range []string{"lo", "all"} {
		t.Run(where, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			sysctl(t, b, "ipv6/conf/"+where+"/disable_ipv6", "1")
			echo(t, b, "app", netip.AddrPortFrom(b.Address, 8080).String())
			put(n, n.st.Workloads, workload(b, model.MTLSStrict, func(w *model.Workload) { w.Addresses = addrs(b)[:1] }))
			n.sync()
			to := netip.AddrPortFrom(b.Address, 8080)
			if line, err := ask(a, to); !refused(err) {
				t.Errorf("a peer without an identity was answered %q (%v) by a strict pod", line, err)
			}
			if fault := n.faultOf("ns/b"); fault != "" {
				t.Errorf("the pod is reported: %s", fault)
			}
			// Envoy reaches the application with the client's address: the rule for IPv4 is there.
			if line, local := n.proxy(b).dial(t, to, a.Address.String()); answer(line) != "app" {
				t.Errorf("the pod's proxy did not reach the app: %q %s", line, local)
			}
			remove(n, n.st.Workloads, "ns/b")
			n.sync()
			if fault := n.faultOf("ns/b"); fault != "" {
				t.Errorf("after it left, the pod is reported: %s", fault)
			}
		})
	}
}

// TestIPv6AddressWithoutLoopback: the pod has an IPv6 address and its proxy cannot serve it.
func TestIPv6AddressWithoutLoopback(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	sysctl(t, b, "ipv6/conf/lo/disable_ipv6", "1")
	echo(t, b, "app", netip.AddrPortFrom(b.Address6, 8080).String())
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	if line, err := ask(a, netip.AddrPortFrom(b.Address6, 8080)); !refused(err) {
		t.Errorf("a peer without an identity was answered %q (%v) by a strict pod", line, err)
	}
	if fault := n.faultOf("ns/b"); !strings.Contains(fault, "disable_ipv6") {
		t.Errorf("the fault is %q, want it to name the setting", fault)
	}
	sysctl(t, b, "ipv6/conf/lo/disable_ipv6", "0")
	eventually(t, "the pod is whole when IPv6 is on", func() bool { return n.faultOf("ns/b") == "" })
}

// TestStrictPodWithReadOnlySettingsIsClosed hides a setting of the kernel in a mount namespace of its own.
func TestStrictPodWithReadOnlySettingsIsClosed(t *testing.T) {
	testenv.Root(t)
	const inside = "WEFT_READ_ONLY_SETTINGS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	file, setting := filepath.Join(t.TempDir(), "setting"), "/proc/sys/net/ipv4/tcp_fwmark_accept"
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := testenv.Pod(t, n.lab, "b")
	err := b.Do(func() error { // settings are other files in each network namespace
		return errors.Join(unix.Mount(file, setting, "", unix.MS_BIND, ""),
			unix.Mount("", setting, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	})
	if err != nil {
		t.Fatal(err)
	}
	closedPod(t, n, b)
	if fault := n.faultOf("ns/b"); !strings.Contains(fault, "tcp_fwmark_accept") {
		t.Errorf("the fault is %q, want it to name the setting", fault)
	}
	if err := b.Do(func() error { return unix.Unmount(setting, 0) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is whole when the setting can be written", func() bool { return n.faultOf("ns/b") == "" })
}

// TestStrictPodWithFullMapsIsClosed fills each map that a pod that joins needs.
func TestStrictPodWithFullMapsIsClosed(t *testing.T) {
	for name, fill := range map[string]func(d *Datapath) error{
		weftMapPods: func(d *Datapath) error {
			return fillMap(d, weftMapPods, func(i int) (uint64, uint32) { return 1<<60 + uint64(i), 0 })
		},
		weftMapNamespaces: func(d *Datapath) error {
			return fillMap(d, weftMapNamespaces, func(i int) (uint64, weftPath) { return 1<<60 + uint64(i), weftPath{} })
		},
		weftMapOwn: func(d *Datapath) error {
			return fillMap(d, weftMapOwn, func(i int) (weftOwnKey, uint32) { return weftOwnKey{Netns: 1<<60 + uint64(i)}, 1 })
		},
		weftMapProbes: func(d *Datapath) error {
			return fillMap(d, weftMapProbes, func(i int) (weftEndpoint, weftProbe) { return weftEndpoint{Port: uint16(i)}, weftProbe{} })
		},
	} {
		for mode, change := range map[string][]func(*model.Workload){
			"strict":  {probed(8081)},
			"policed": {probed(8081), policed, func(w *model.Workload) { w.MTLS, w.Identity = model.MTLSDisabled, "" }},
		} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				n := newNode(t)
				if err := fill(n.d); err != nil {
					t.Fatal(err)
				}
				closedPod(t, n, testenv.Pod(t, n.lab, "b"), change...)
				if fault := n.faultOf("ns/b"); !strings.Contains(fault, "full") || !strings.Contains(fault, name) {
					t.Errorf("the fault is %q, want it to say that %s is full", fault, name)
				}
			})
		}
	}
}

// fillMap writes entries until the map takes no more.
func fillMap[K, V comparable](d *Datapath, name string, entry func(int) (K, V)) error {
	m := d.maps[name]
	for i := range int(m.MaxEntries()) {
		k, v := entry(i)
		if err := (kernelTable[K, V]{m}).Put(k, v); err != nil {
			if strings.Contains(err.Error(), "full") {
				return nil
			}
			return err
		}
	}
	return nil
}

// TestAnyFailingStepLeavesThePodClosed lets each step of joining fail, for a new pod and for one that was open before.
func TestAnyFailingStepLeavesThePodClosed(t *testing.T) {
	broken := errors.New("broken")
	for name, breaks := range map[string]func(*fakeNode) (mend func()){
		"peers":      func(f *fakeNode) func() { return failWrites(f.kern.peers, broken) },
		"namespaces": func(f *fakeNode) func() { return failWrites(f.kern.namespaces, broken) },
		"own":        func(f *fakeNode) func() { return failWrites(f.kern.own, broken) },
		"probes":     func(f *fakeNode) func() { return failWrites(f.kern.probes, broken) },
		"requests":   func(f *fakeNode) func() { return failWrites(f.kern.requests, broken) },
		"pods": func(f *fakeNode) func() { // cannot be written, but entries can be deleted
			f.kern.pods.failPut = broken
			return func() { f.kern.pods.failPut = nil }
		},
		"rules and settings": func(f *fakeNode) func() {
			f.space.route = broken
			return func() { f.space.route = nil }
		},
		"closing connections": func(f *fakeNode) func() {
			f.space.close = broken
			return func() { f.space.close = nil }
		},
	} {
		for _, before := range []string{"new", "open before"} {
			if name == "namespaces" && before != "new" {
				continue // the path was written when the pod joined
			}
			t.Run(name+"/"+before, func(t *testing.T) {
				f := newFakeNode(t)
				w := model.Workload{
					Namespace: "ns", Name: "a", Addresses: testenv.Addrs("10.0.0.1"), Local: true, NetNS: "/run/netns/a",
				}
				if before != "new" {
					open := w
					write(f, f.st.Workloads, &open)
					if errs := f.apply(); len(errs) > 0 {
						t.Fatal(errs)
					}
				}
				mend := breaks(f)
				strict := w
				strict.Addresses = testenv.Addrs("10.0.0.1", "10.0.0.2")
				strict.MTLS, strict.Identity = model.MTLSStrict, "spiffe://td/ns/ns/sa/a"
				strict.Probes = []model.Probe{{Port: 8081, Kind: model.ProbeHTTP, Target: "/"}}
				write(f, f.st.Workloads, &strict)
				if err := f.apply()["workload/ns/a"]; !strings.Contains(err, broken.Error()) {
					t.Errorf("the fault is %q, want the cause", err)
				}
				f.checkClosed("/run/netns/a")
				mend()
				if errs := f.apply(); len(errs) > 0 {
					t.Errorf("after it was mended: %v", errs)
				}
				f.checkClosed("/run/netns/a")
			})
		}
	}
}

func failWrites[K, V comparable](table *fakeTable[K, V], err error) (mend func()) {
	table.fail = func(K) error { return err }
	return func() { table.fail = nil }
}

// checkClosed looks at what the inbound program of a namespace decides by.
func (f *fakeNode) checkClosed(netns string) {
	f.t.Helper()
	ns, err := f.space.Open(netns)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.space.live[ns.Cookie()] != netns {
		f.t.Error("the inbound program is not attached")
	}
	if flags, ok := f.kern.pods.entries[ns.Cookie()]; ok && flags&workloadStrict == 0 {
		f.t.Errorf("the pod's flags are %b: it is open", flags)
	}
}

// TestOpenPodWithFullMapStaysOpen: the program refuses where there is no entry, so it must not be attached then.
func TestOpenPodWithFullMapStaysOpen(t *testing.T) {
	f := newFakeNode(t)
	f.kern.pods.failPut = errors.New("broken")
	write(f, f.st.Workloads, &model.Workload{
		Namespace: "ns", Name: "a", Addresses: testenv.Addrs("10.0.0.1"), Local: true, NetNS: "/run/netns/a",
	})
	if f.apply()["workload/ns/a"] == "" {
		t.Error("nothing is reported")
	}
	if len(f.space.live) > 0 {
		t.Error("the inbound program is attached without an entry: it refuses everybody")
	}
}

// TestContestedAddress: an address that two pods claim opens neither of them, and nobody speaks to it in the clear who
// would have to authenticate it.
func TestContestedAddress(t *testing.T) {
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	claimed := func(w *model.Workload) { w.Addresses, w.Contested = nil, w.Addresses }
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, claimed))
	put(n, n.st.Workloads, workload(c, model.MTLSDisabled, claimed))
	put(n, n.st.Workloads, &model.Workload{
		Namespace: "ns", Name: "elsewhere", MTLS: model.MTLSStrict, Identity: "spiffe://td/ns/ns/sa/elsewhere",
		Contested: slices.Concat(addrs(b), addrs(c)),
	})
	n.sync()
	for _, ip := range slices.Concat(addrs(b), addrs(c)) {
		p := c
		if slices.Contains(addrs(b), ip) {
			p = b
		}
		echo(t, p, "app", netip.AddrPortFrom(ip, 8080).String())
	}
	refuses := func(who string, to netip.Addr, want bool) {
		t.Helper()
		if line, err := ask(a, netip.AddrPortFrom(to, 8080)); refused(err) != want {
			t.Errorf("%s to %s: %q %v, want refused %v", who, to, line, err, want)
		}
	}
	for _, ip := range addrs(b) {
		refuses("without an identity to the strict pod", ip, true)
		if line, err := ask(b, netip.AddrPortFrom(ip, 8080)); err != nil {
			t.Errorf("the strict pod to itself: %q %v", line, err)
		}
	}
	for _, ip := range addrs(c) {
		refuses("without an identity to the open pod", ip, false)
	}
	put(n, n.st.Workloads, workload(a, model.MTLSPermissive))
	n.sync()
	n.proxy(a, proxyListeners...)
	for _, ip := range slices.Concat(addrs(b), addrs(c)) {
		refuses("with an identity", ip, true)
		n.waitEvent("the refusal has its reason", func(e Event) bool {
			return e.Kind == EventRefused && !e.Inbound && e.Reason == ReasonContested && e.Original.Addr() == ip
		})
	}
}
