package placement

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	uidA = "0a1b2c3d-0000-4000-8000-00000000000a"
	uidB = "0a1b2c3d-0000-4000-8000-00000000000b"
	uidC = "0123456789abcdef0123456789abcdef" // of a static pod
)

func TestPodUID(t *testing.T) {
	for name, want := range map[string]string{
		"pod" + uidA: uidA,
		"kubepods-burstable-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice":          uidA,
		"kubelet-kubepods-besteffort-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice": uidA,
		"kubepods-pod" + uidC + ".slice":                                                  uidC,
		"pod" + uidC:                                                                      uidC,
		"xpod" + uidA:                                                                     "",
		"pod" + uidA + ".scope":                                                           "",
		"pod" + uidA + "0":                                                                "",
		"pod":                                                                             "",
		"podinfo":                                                                         "",
		"kubepods":                                                                        "",
		"kubepods-burstable.slice":                                                        "",
		"cri-containerd-" + uidC + ".scope":                                               "",
	} {
		if got, ok := podUID(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q %v, want %q", name, got, ok, want)
		}
	}
}

// machine is a node made of files.
type machine struct {
	t   *testing.T
	dir string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	for _, d := range []string{"cgroup", "netns", "proc/thread-self/ns"} {
		m.mkdir(d)
	}
	m.write("netns/host", "")
	m.link("netns/host", "proc/thread-self/ns/net")
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) mkdir(name string) {
	if err := os.MkdirAll(m.path(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(name, text string) {
	m.mkdir(filepath.Dir(name))
	if err := os.WriteFile(m.path(name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(from, to string) {
	m.mkdir(filepath.Dir(to))
	if err := os.Link(m.path(from), m.path(to)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	if err := os.RemoveAll(m.path(name)); err != nil {
		m.t.Fatal(err)
	}
}

// namespace makes one that has a name; it is a file here.
func (m *machine) namespace(name string) { m.write("netns/"+name, "") }

// process makes a process that started at a time, in a namespace with a name.
func (m *machine) process(pid, start int, namespace string) {
	before := strings.Repeat(" 0", 18)
	m.write(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (a b) c)) S%s %d 0 0\n", pid, before, start))
	m.link("netns/"+namespace, fmt.Sprintf("proc/%d/ns/net", pid))
}

func (m *machine) cgroup(name string, pids ...int) {
	m.write("cgroup/"+name+"/cgroup.procs", strings.Trim(strings.ReplaceAll(fmt.Sprint(pids), " ", "\n"), "[]")+"\n")
}

func (m *machine) scanner() Scanner {
	return Scanner{CgroupRoot: m.path("cgroup"), NetNSDir: m.path("netns"), Proc: m.path("proc")}
}

// find gives the network namespaces of all pods.
func (m *machine) find() map[string]string {
	m.t.Helper()
	found, err := m.scanner().Find(map[string]bool{uidA: true, uidB: true, uidC: true})
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string]string{}
	for uid, f := range found {
		out[uid] = f.NetNS + " " + f.Cgroup
	}
	return out
}

func TestFind(t *testing.T) {
	a, b := "kubepods/burstable/pod"+uidA, "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"+strings.ReplaceAll(uidB, "-", "_")+".slice"
	for _, test := range []struct {
		name string
		make func(m *machine)
		want map[string]string
	}{
		{"cgroupfs", func(m *machine) { m.cgroup(a+"/c1", 10) }, map[string]string{uidA: "a " + a}},
		{"systemd", func(m *machine) { m.cgroup(b+"/cri-containerd-1.scope", 20) }, map[string]string{uidB: "b " + b}},
		{"guaranteed", func(m *machine) { m.cgroup("kubepods/pod"+uidC+"/c", 10) }, map[string]string{uidC: "a kubepods/pod" + uidC}},
		{
			"the kubelet's cgroup is below others", func(m *machine) {
				m.cgroup("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod"+uidC+".slice/c.scope", 10)
				m.cgroup("wcl/n1/pods/"+a+"/c", 20)
			},
			map[string]string{uidC: "a kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uidC + ".slice", uidA: "b wcl/n1/pods/" + a},
		},
		{"a container with cgroups of its own", func(m *machine) { m.cgroup(a + "/c1"); m.cgroup(a+"/c1/init.scope", 10) }, map[string]string{uidA: "a " + a}},
		{"the oldest process tells", func(m *machine) { m.cgroup(a+"/c1", 20, 10); m.cgroup(a+"/c2", 30) }, map[string]string{uidA: "a " + a}},
		{"processes that are gone or elsewhere", func(m *machine) { m.cgroup(a+"/c1", 0, 99, 30) }, map[string]string{uidA: "c " + a}},
		{"no process", func(m *machine) { m.cgroup(a + "/c1") }, map[string]string{}},
		{"the host's network", func(m *machine) { m.process(40, 1, "host"); m.cgroup(a+"/c1", 40) }, map[string]string{uidA: " " + a}},
		{"a namespace without a name", func(m *machine) { m.remove("netns/a"); m.cgroup(a+"/c1", 10) }, map[string]string{uidA: " " + a}},
		{"not below the kubelet's cgroup", func(m *machine) { m.cgroup("user.slice/pod"+uidA+"/c1", 10) }, map[string]string{}},
		{"in another pod's cgroup", func(m *machine) {
			m.cgroup(b+"/c/"+a+"/c", 10)
			m.cgroup(b+"/c", 20)
		}, map[string]string{uidB: "b " + b}},
		{"another pod", func(m *machine) { m.cgroup("kubepods/pod0a1b2c3d-0000-4000-8000-00000000000f/c", 10) }, map[string]string{}},
		{"no namespaces yet", func(m *machine) { m.remove("netns") }, map[string]string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			for i, name := range []string{"a", "b", "c"} {
				m.namespace(name)
				m.process(10*(i+1), 100*(i+1), name)
			}
			test.make(m)
			if got := m.find(); !maps.Equal(got, test.want) {
				t.Errorf("found %v, want %v", got, test.want)
			}
		})
	}
}

// A name that a later mount hides is not in the folder, but still among the mounts.
func TestFindExplainsHiddenNames(t *testing.T) {
	m := newMachine(t)
	m.namespace("a")
	m.process(10, 1, "a")
	m.cgroup("kubepods/pod"+uidA+"/c", 10)
	id, err := identify(m.path("netns/a"))
	if err != nil {
		t.Fatal(err)
	}
	m.remove("netns/a")
	m.write("proc/thread-self/mountinfo", fmt.Sprintf("22 1 0:20 / /run/netns rw shared:1 - tmpfs tmpfs rw\n"+
		"23 22 0:4 net:[%d] /run/netns/a rw shared:2 - nsfs nsfs rw\n24 22 0:4 mnt:[7] /x rw - nsfs nsfs rw\nbroken\n", id.ino))
	found, err := m.scanner().Find(map[string]bool{uidA: true})
	if f := found[uidA]; err != nil || f.NetNS != "" || f.Hidden != "/run/netns/a" {
		t.Errorf("found %+v, error %v", f, err)
	}
	m.remove("proc/thread-self/mountinfo")
	if found, err = m.scanner().Find(map[string]bool{uidA: true}); err != nil || found[uidA].Hidden != "" {
		t.Errorf("without a list of mounts: %+v, error %v", found[uidA], err)
	}
}

func TestFindIsBounded(t *testing.T) {
	m := newMachine(t)
	m.namespace("a")
	m.namespace("b")
	pod := "kubepods/pod" + uidA
	m.process(1, 1, "a")
	m.cgroup(pod+"/0", 1)
	for i := range 2 * maxCgroups {
		m.cgroup(fmt.Sprintf("%s/x/%d", pod, i), 2)
	}
	if n := len(m.scanner().processes(pod)); n >= maxCgroups {
		t.Errorf("looked at %d processes", n)
	}
	if got := m.find()[uidA]; got != "a "+pod {
		t.Errorf("found %q", got)
	}
	if n := len(m.scanner().children("nothing")); n != 0 {
		t.Errorf("%d children of nothing", n)
	}
}

func TestFindTellsWhatItCannotRead(t *testing.T) {
	m := newMachine(t)
	m.remove("cgroup")
	if _, err := m.scanner().Find(map[string]bool{uidA: true}); err == nil {
		t.Error("no error without cgroups")
	}
	if _, err := startTime(m.path("proc/thread-self")); err == nil {
		t.Error("a folder has a start time")
	}
	for _, text := range []string{"", "1 (x", "1 (x) S 1", strings.Repeat(")", 40)} {
		m.write("stat", text)
		if n, err := startTime(m.path("stat")); err == nil {
			t.Errorf("%q has start time %d", text, n)
		}
	}
}
