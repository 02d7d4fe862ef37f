package placement

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Scanner finds the pods that run on this machine by what kubelet and container runtime made for them: a cgroup named
// after the pod's UID, processes in it, and a name for their network namespace.
type Scanner struct {
	CgroupRoot string // the cgroup2 directory that the kubelet's cgroups are below
	NetNSDir   string // /run/netns, where runtimes give namespaces names
	Proc       string // /proc of the node's process namespace
}

// Found is where a pod runs.
type Found struct {
	NetNS  string // name in NetNSDir; "" if its processes are in a namespace that has no name there
	ID     nsID   // of that namespace
	Cgroup string // below CgroupRoot
	// Hidden is the path where the namespace has a name that another mount hides; "" if there is none, or NetNS is known.
	Hidden string
}

// Bounds of one look: a pod can make as many cgroups and processes as its limits let it.
const (
	depthAbove   = 6   // levels above the kubelet's own cgroup
	depthClasses = 2   // levels between that and a pod's: its class of service
	depthInside  = 4   // levels below a pod's
	maxCgroups   = 256 // of a pod
	maxProcesses = 16  // that are looked at in each of them
)

// podCgroup matches the names that the kubelet gives to pods' cgroups, with the driver cgroupfs (pod<uid>) and with
// systemd (kubepods-burstable-pod<uid with _>.slice). The UID of a static pod is a hash without dashes.
var podCgroup = regexp.MustCompile(`^(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$`)

// podUID gives the UID that a cgroup is named after.
func podUID(name string) (string, bool) {
	m := podCgroup.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	return strings.ReplaceAll(m[1], "_", "-"), true
}

// isKubelets reports whether a cgroup is the one that the kubelet puts all pods into. It may be below others
// (kubelet-kubepods.slice).
func isKubelets(name string) bool {
	name = strings.TrimSuffix(name, ".slice")
	return name == "kubepods" || strings.HasSuffix(name, "-kubepods")
}

// Find looks for pods by their UIDs. Pods without a process are left out.
func (s Scanner) Find(uids map[string]bool) (map[string]Found, error) {
	names, err := s.namespaces()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.CgroupRoot); err != nil {
		return nil, fmt.Errorf("look for pods' cgroups: %w", err)
	}
	out := map[string]Found{}
	for _, kubepods := range s.kubelets("", depthAbove) {
		s.pods(kubepods, depthClasses, func(uid, cgroup string) {
			if !uids[uid] {
				return
			}
			if ns, ok := s.namespaceOf(cgroup); ok {
				out[uid] = Found{NetNS: names[ns], ID: ns, Cgroup: cgroup}
			}
		})
	}
	s.explain(out)
	return out, nil
}

// explain looks for names of the namespaces that seem to have none. A mount over NetNSDir hides the names that were made
// before it, as the first "ip netns add" of a machine can do.
func (s Scanner) explain(found map[string]Found) {
	var mounts map[uint64]string
	for uid, f := range found {
		if f.NetNS != "" {
			continue
		}
		if mounts == nil {
			mounts = s.mountedNamespaces()
		}
		f.Hidden = mounts[f.ID.ino]
		found[uid] = f
	}
}

// mountedNamespaces returns where network namespaces are mounted, hidden or not, by their inodes.
func (s Scanner) mountedNamespaces() map[uint64]string {
	out := map[uint64]string{}
	text, err := os.ReadFile(filepath.Join(s.Proc, "thread-self/mountinfo"))
	if err != nil {
		return out // there is no explanation then
	}
	for line := range strings.Lines(string(text)) {
		// Fields 4 and 5 are root and mount point (proc_pid_mountinfo(5)). The root of a namespace is net:[inode].
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		number, isNet := strings.CutPrefix(fields[3], "net:[")
		ino, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if isNet && err == nil {
			out[ino] = fields[4]
		}
	}
	return out
}

// children lists the cgroups right below one. One that has just gone has none.
func (s Scanner) children(cgroup string) []string {
	entries, err := os.ReadDir(filepath.Join(s.CgroupRoot, cgroup))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

func (s Scanner) kubelets(cgroup string, depth int) []string {
	var out []string
	for _, name := range s.children(cgroup) {
		below := filepath.Join(cgroup, name)
		switch _, pod := podUID(name); {
		case isKubelets(name):
			out = append(out, below)
		case depth > 0 && !pod:
			out = append(out, s.kubelets(below, depth-1)...)
		}
	}
	return out
}

// pods calls found for each pod. It does not look for pods inside of pods: who may make cgroups there could name one
// after another pod.
func (s Scanner) pods(cgroup string, depth int, found func(uid, cgroup string)) {
	for _, name := range s.children(cgroup) {
		below := filepath.Join(cgroup, name)
		if uid, ok := podUID(name); ok {
			found(uid, below)
		} else if depth > 0 {
			s.pods(below, depth-1, found)
		}
	}
}

// namespaces gives the names of network namespaces. One with several has the first.
func (s Scanner) namespaces() (map[nsID]string, error) {
	entries, err := os.ReadDir(s.NetNSDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no pod has started yet
		return nil, fmt.Errorf("look for network namespaces: %w", err)
	}
	out := map[nsID]string{}
	for _, e := range entries {
		ns, err := identify(filepath.Join(s.NetNSDir, e.Name()))
		if err != nil {
			continue // it went
		}
		if _, ok := out[ns]; !ok {
			out[ns] = e.Name()
		}
	}
	// The host's is no pod's own. It is that of any thread that may run this; the process's first thread, which self
	// would name, may be in a pod's at the moment.
	if own, err := identify(filepath.Join(s.Proc, "thread-self/ns/net")); err == nil {
		delete(out, own)
	}
	return out, nil
}

// namespaceOf gives the network namespace of a pod's oldest process. That is the sandbox's, or the first container's;
// later ones may have gone elsewhere.
func (s Scanner) namespaceOf(cgroup string) (nsID, bool) {
	var ns nsID
	oldest, found := uint64(0), false
	for _, pid := range s.processes(cgroup) {
		dir := filepath.Join(s.Proc, strconv.Itoa(pid))
		started, err := startTime(filepath.Join(dir, "stat"))
		if err != nil || found && started >= oldest {
			continue
		}
		if n, err := identify(filepath.Join(dir, "ns/net")); err == nil {
			ns, oldest, found = n, started, true
		}
	}
	return ns, found
}

// processes lists some processes of each cgroup at and below one.
func (s Scanner) processes(cgroup string) []int {
	var out []int
	left := maxCgroups
	var walk func(cgroup string, depth int)
	walk = func(cgroup string, depth int) {
		if left--; left < 0 {
			return
		}
		out = append(out, s.members(cgroup)...)
		for _, name := range s.children(cgroup) {
			if depth > 0 {
				walk(filepath.Join(cgroup, name), depth-1)
			}
		}
	}
	walk(cgroup, depthInside)
	return out
}

// members lists the first processes of a cgroup. Those of other process namespaces show as 0.
func (s Scanner) members(cgroup string) []int {
	text, err := os.ReadFile(filepath.Join(s.CgroupRoot, cgroup, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var out []int
	for _, f := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 && len(out) < maxProcesses {
			out = append(out, pid)
		}
	}
	return slices.Clip(out)
}

// startTime is field 22 of /proc/<pid>/stat (proc_pid_stat(5)), in clock ticks since boot. The command before it may
// hold anything, parentheses included.
func startTime(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	i := strings.LastIndexByte(string(text), ')')
	fields := strings.Fields(string(text[i+1:]))
	if i < 0 || len(fields) < 20 {
		return 0, fmt.Errorf("%s is not as it should be", file)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
