package check

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/datapath"
)

// machine is a file system: path -> content.
func machine(t *testing.T, files map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: strings.TrimPrefix(root, "/")}
}

// find gives the results of a name.
func find(all []Result, name string) []Result {
	var out []Result
	for _, r := range all {
		if r.Name == name {
			out = append(out, r)
		}
	}
	return out
}

// expect looks for one result of a name, at a level, that holds a text in what was found or in the remedy.
func expect(t *testing.T, all []Result, name string, level Level, text string) {
	t.Helper()
	got := find(all, name)
	if len(got) != 1 {
		t.Errorf("%s: %d results in %+v", name, len(got), all)
		return
	}
	if r := got[0]; r.Level != level || !strings.Contains(r.Found+" -> "+r.Remedy, text) {
		t.Errorf("%s: %v %q -> %q, want %v with %q", name, r.Level, r.Found, r.Remedy, level, text)
	}
}

const (
	release  = "proc/sys/kernel/osrelease"
	bridged  = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"},{"type":"portmap"}]}`
	anywhere = "etc/cni/net.d/"
)

func TestMachine(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		line  string
		level Level
		text  string
	}{
		{"kernel", map[string]string{release: "6.18.5\n"}, "kernel", OK, "Linux 6.18.5"},
		{"oldest kernel", map[string]string{release: "5.15.0-91-generic\n"}, "kernel", Warn, "EPERM"},
		{"too old", map[string]string{release: "5.14.21"}, "kernel", Fail, "upgrade"},
		{"strange kernel", map[string]string{release: "custom"}, "kernel", Warn, "MAJOR.MINOR"},
		{"no BTF", map[string]string{release: "6.1"}, "BTF", OK, "do not need"},
		{"no CNI", map[string]string{release: "6.1"}, "CNI", Warn, "install a CNI plugin first"},
		{"empty CNI", map[string]string{release: "6.1", anywhere + "README": ""}, "CNI", Fail, "holds no configuration"},
		{"first by name", map[string]string{release: "6.1", anywhere + "20-x.conflist": "{", anywhere + "10-b.conflist": bridged}, "CNI", OK, "network pods by bridge, portmap"},
		{"broken CNI", map[string]string{release: "6.1", anywhere + "10-b.conflist": "{"}, "CNI", Fail, "mend or remove"},
		{"no plugin", map[string]string{release: "6.1", anywhere + "10-b.conflist": `{"name":"x","plugins":[]}`}, "CNI", Fail, "names no plugin"},
		{"single plugin", map[string]string{release: "6.1", anywhere + "10-b.conf": `{"name":"x","type":"bridge"}`}, "CNI", OK, "single plugin bridge"},
		{"kube-proxy", map[string]string{release: "6.1", "proc/77/comm": "kube-proxy\n"}, "kube-proxy", OK, "runs"},
		{"another mesh", map[string]string{release: "6.1", "proc/77/comm": "ztunnel\n"}, "other meshes", Warn, "one mesh only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, machine(t, c.files).Check(), c.line, c.level, c.text)
		})
	}
}

func TestMachineThatIsNoLinux(t *testing.T) {
	all := machine(t, nil).Check()
	expect(t, all, "kernel", Fail, "a node is a Linux machine")
	if !Failed(all) || len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

func TestMachineAsksTheKernel(t *testing.T) {
	m := machine(t, map[string]string{release: "6.1"})
	m.Datapath = func() []datapath.Finding {
		return []datapath.Finding{{Name: "cgroup2", What: "cgroup2 is not mounted", How: "mount it"}, {Name: "bpffs", What: "mounted"}}
	}
	all := m.Check()
	expect(t, all, "cgroup2", Fail, "-> mount it")
	expect(t, all, "bpffs", OK, "mounted")
	for _, c := range []struct {
		found []datapath.OtherProgram
		err   error
		level Level
		text  string
	}{
		{nil, nil, OK, "nobody"},
		{[]datapath.OtherProgram{{Hook: "cgroup/connect4", Program: "cil_sock4_connect"}}, nil, Fail, "socketLB.hostNamespaceOnly"},
		{[]datapath.OtherProgram{{Hook: "cgroup/connect4", Program: "trace"}}, nil, Warn, "trace at cgroup/connect4"},
		{nil, errors.New("permission denied"), Warn, "permission denied"},
	} {
		m.OtherPrograms = func() ([]datapath.OtherProgram, error) { return c.found, c.err }
		expect(t, m.Check(), "other programs", c.level, c.text)
	}
}
