package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/datapath"
)

// Machine is this machine, looked at as a node.
type Machine struct {
	// Root is where its file system is mounted; "" is "/".
	Root string
	// CNI is the folder of the CNI's configuration; "" is /etc/cni/net.d.
	CNI string
	// Datapath asks the kernel, which takes root; nil does not.
	Datapath func() []datapath.Finding
	// OtherPrograms lists the programs of others at the hooks that the datapath needs; nil does not look.
	OtherPrograms func() ([]datapath.OtherProgram, error)
}

// ThisMachine looks at the machine that the program runs on, with all that the user may see.
func ThisMachine(cfg datapath.Config) Machine {
	m := Machine{Datapath: func() []datapath.Finding { return datapath.Check(cfg) }}
	if os.Geteuid() == 0 {
		m.OtherPrograms = func() ([]datapath.OtherProgram, error) { return datapath.OtherPrograms(cfg) }
	}
	return m
}

// Check looks at all of it.
func (m Machine) Check() []Result {
	r := &report{area: "machine"}
	release, err := os.ReadFile(m.path("/proc/sys/kernel/osrelease"))
	if err != nil {
		r.fail("kernel", "a node is a Linux machine", "%v", err)
		return r.out
	}
	r.kernel("kernel", string(release))
	m.btf(r)
	if m.Datapath != nil {
		for _, f := range m.Datapath() {
			if f.Missing() {
				r.fail(f.Name, f.How, "%s", f.What)
			} else {
				r.ok(f.Name, "%s", f.What)
			}
		}
	}
	m.otherPrograms(r)
	m.cni(r)
	m.processes(r)
	return r.out
}

func (m Machine) path(p string) string { return filepath.Join("/", m.Root, p) }

// btf tells of the kernel's types. The programs see stable contexts only and have no relocations by them.
func (m Machine) btf(r *report) {
	const file = "/sys/kernel/btf/vmlinux"
	if _, err := os.Stat(m.path(file)); err != nil {
		r.ok("BTF", "the kernel has no %s; Weft's programs do not need it", file)
		return
	}
	r.ok("BTF", "%s", file)
}

// otherPrograms reports programs of others that rewrite connections at the same hooks: the last one attached wins.
func (m Machine) otherPrograms(r *report) {
	if m.OtherPrograms == nil {
		return
	}
	const name = "other programs"
	found, err := m.OtherPrograms()
	if err != nil {
		r.warn(name, "see bpftool cgroup tree", "%v", err)
		return
	}
	cilium := false
	var all []string
	for _, f := range found {
		all = append(all, fmt.Sprintf("%s at %s", f.Program, f.Hook))
		cilium = cilium || strings.HasPrefix(f.Program, "cil_")
	}
	switch {
	case cilium:
		r.fail(name, "set socketLB.hostNamespaceOnly=true in Cilium's chart (bpf-lb-sock-hostns-only), so that pods' connections reach Weft with their Service's address",
			"Cilium balances at the same sockets: %s", strings.Join(all, ", "))
	case len(all) > 0:
		r.warn(name, "make sure that they do not rewrite the destinations of pods' connections: Weft must see the Service's address", "%s", strings.Join(all, ", "))
	default:
		r.ok(name, "nobody else is at the hooks")
	}
}

// conflist is what is read of a CNI network configuration list, or of the configuration of a single plugin.
type conflist struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Plugins []struct {
		Type string `json:"type"`
	} `json:"plugins"`
}

// cni looks at the configuration that the container runtime takes: the first by name (libcni, ConfFiles).
func (m Machine) cni(r *report) {
	const name = "CNI"
	dir := m.CNI
	if dir == "" {
		dir = "/etc/cni/net.d"
	}
	entries, err := os.ReadDir(m.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		r.warn(name, "on a Kubernetes node install a CNI plugin first; a machine that runs from a folder of manifests needs none", "there is no %s", dir)
		return
	}
	if err != nil {
		r.fail(name, "see what "+dir+" is", "%v", err)
		return
	}
	for _, e := range entries { // sorted by name
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			m.conflist(r, filepath.Join(dir, e.Name()))
			return
		}
	}
	r.fail(name, "install a CNI plugin first: Weft's is chained behind it", "%s holds no configuration", dir)
}

func (m Machine) conflist(r *report, file string) {
	const name = "CNI"
	text, err := os.ReadFile(m.path(file))
	var c conflist
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	var types []string
	for _, p := range c.Plugins {
		types = append(types, p.Type)
	}
	switch {
	case err != nil:
		r.fail(name, "the container runtime takes this file; mend or remove it", "%s: %v", file, err)
	case len(types) == 0 && c.Type == "":
		r.fail(name, "the container runtime takes this file; mend or remove it", "%s names no plugin", file)
	case len(types) == 0:
		r.ok(name, "%s: network %s by the single plugin %s", file, c.Name, c.Type)
	default:
		r.ok(name, "%s: network %s by %s", file, c.Name, strings.Join(types, ", "))
	}
}

// processes looks for those of kube-proxy and of other meshes; the cluster's own lists say more where they can be read.
func (m Machine) processes(r *report) {
	found := map[string]bool{}
	comms, _ := filepath.Glob(m.path("/proc/[0-9]*/comm")) // the pattern is well formed
	for _, c := range comms {
		if text, err := os.ReadFile(c); err == nil {
			found[strings.TrimSpace(string(text))] = true
		}
	}
	if found["kube-proxy"] {
		r.ok("kube-proxy", "runs; Weft takes Services at the socket before it, and leaves it the rest")
	}
	var others []string
	for _, p := range []string{"ztunnel", "linkerd2-proxy", "pilot-agent"} {
		if found[p] {
			others = append(others, p)
		}
	}
	if slices.Sort(others); len(others) > 0 {
		r.warn("other meshes", "a pod must be in one mesh only: take its namespace out of the other", "processes of another mesh run here: %s", strings.Join(others, ", "))
	}
}
