package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

//go:embed manifests
var manifests embed.FS

const (
	prefix   = "wcl" // of all names: cgroups, namespaces, links
	maxNodes = 8
)

var machines = netip.MustParsePrefix("10.89.0.0/24")

// ErrNone says that no cluster is up.
var ErrNone = errors.New("no cluster is up: make cluster")

// Cluster is the machine's cluster; there is at most one.
type Cluster struct {
	API *API

	dir                string
	log                *slog.Logger
	bin                Binaries
	lab                *lab.Lab
	machine            *lab.Pod // of the control plane
	nodes              []*node
	nameservers        []string
	manager, scheduler *process
}

// Dir is the folder of the running cluster: kubeconfig, log/, pid/ and what the nodes write.
func Dir() (string, error) {
	cache, err := CacheDir()
	return filepath.Join(cache, "cluster"), err
}

// Up builds what is missing and starts a cluster of so many nodes (1 to 8), named n1 and so on, with cluster DNS. An
// earlier cluster is taken down first. It outlives this process; Down ends it. It needs root.
func Up(ctx context.Context, log *slog.Logger, nodes int) (*Cluster, error) {
	if nodes < 1 || nodes > maxNodes {
		return nil, fmt.Errorf("%d nodes: want 1 to %d", nodes, maxNodes)
	}
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkDir(dir), preflight()); err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, log: log}
	if c.bin, err = Build(ctx, log, Everything...); err != nil {
		return nil, err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := down(dir); err != nil {
		return nil, fmt.Errorf("take the earlier cluster down: %w", err)
	}
	defer c.release()
	if err := c.up(ctx, nodes); err != nil {
		return nil, fmt.Errorf("%w\nwhat has started is left to look at: make cluster-down", err)
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context, nodes int) error {
	archives, err := writeImages(ctx, c.log, filepath.Join(c.dir, "images"), c.bin)
	if err != nil {
		return err
	}
	if err := c.makeMachines(nodes); err != nil {
		return err
	}
	l, err := c.launchOn(c.machine, c.machine.Do)
	if err != nil {
		return err
	}
	c.log.Info("starting the control plane", "address", APIAddress)
	if err := c.startControlPlane(ctx, l); err != nil {
		return err
	}
	for _, n := range c.nodes {
		c.log.Info("starting node", "node", n.name, "address", n.machine.Address, "pods", n.podCIDR)
		if err := n.enter(); err != nil {
			return err
		}
		if err := n.startRuntime(ctx, archives); err != nil {
			return err
		}
		if err := n.startKubelet(); err != nil {
			return err
		}
	}
	if err := c.registered(ctx); err != nil {
		return err
	}
	return c.deployDNS(ctx)
}

// makeMachines makes the network: a bridge, a namespace a machine, and routes to the pods.
func (c *Cluster) makeMachines(nodes int) (err error) {
	if c.lab, err = lab.New(prefix, machines); err != nil {
		return err
	}
	c.nameservers = nameservers(readResolvConf(), c.lab.Gateway.String())
	if c.machine, err = c.lab.AddPod("cp"); err != nil {
		return err
	}
	if c.machine.Address != APIAddress.Addr() {
		return fmt.Errorf("the control plane has address %s, want %s", c.machine.Address, APIAddress.Addr())
	}
	for i := 1; i <= nodes; i++ {
		n := &node{name: nodeName(i), podCIDR: podCIDR(i), dir: filepath.Join(c.dir, nodeName(i)), cluster: c}
		if n.machine, err = c.lab.AddPod(n.name); err != nil {
			return err
		}
		if err := errors.Join(os.MkdirAll(n.dir, 0o755), makeCgroup(n.podsCgroup())); err != nil {
			return err
		}
		if n.launch, err = c.launchOn(n.machine, n.within); err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	if err := addRoutes(c.lab.Bridge(), c.lab.Gateway, c.nodes); err != nil {
		return err
	}
	for _, m := range c.lab.Pods() {
		if err := m.Do(func() error { return addRoutes("eth0", m.Address, c.nodes) }); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
	}
	return nil
}

// launchOn starts processes on a machine, in its cgroup, by which down finds them and all their children.
func (c *Cluster) launchOn(m *lab.Pod, within func(func() error) error) (launch, error) {
	root, err := lab.CgroupMount()
	if err != nil {
		return launch{}, err
	}
	path := filepath.Dir(c.bin["containerd"]) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin" // containerd looks for its shim and runc
	return launch{dir: c.dir, cgroup: filepath.Join(root, m.Cgroup), within: within, lasts: true, env: []string{"PATH=" + path}}, nil
}

// release frees what only the start needed.
func (c *Cluster) release() {
	for _, n := range c.nodes {
		n.leave()
	}
}

// Open gives the cluster that is up, to use by Kubectl and Kubeconfig; ErrNone if there is none.
func Open(ctx context.Context, log *slog.Logger) (*Cluster, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	a := &API{URL: "https://" + APIAddress.String(), Kubeconfig: filepath.Join(dir, "kubeconfig"), dir: dir}
	a.ca, err = openAuthority(filepath.Join(dir, "pki"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	bin, err := Build(ctx, log, "kubectl")
	return &Cluster{API: a, dir: dir, log: log, bin: bin}, err
}

// Kubectl runs kubectl as the administrator and gives what it wrote. stdin may be nil.
func (c *Cluster) Kubectl(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := c.KubectlCommand(ctx, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd.CombinedOutput()
}

// KubectlCommand is a kubectl to run as the administrator.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.bin["kubectl"], append([]string{"--kubeconfig", c.API.Kubeconfig}, args...)...)
}

// NodeCommand is a command to run in the namespaces of a node, as a process of that machine would.
func (c *Cluster) NodeCommand(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "pid", "containerd-"+filepath.Base(node)))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w: nodes are n1 and so on", node, err)
	}
	all := append([]string{"--target", strings.TrimSpace(string(b)), "--mount", "--net", "--uts", "--"}, args...)
	return exec.CommandContext(ctx, "nsenter", all...), nil
}

// Processes tells of the processes that Up started, by name, whether they run.
func (c *Cluster) Processes() (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, "pid"))
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(c.dir, "pid", e.Name()))
		if err != nil {
			return nil, err
		}
		stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(b)), "stat"))
		out[e.Name()] = err == nil && !strings.Contains(string(stat), ") Z ")
	}
	return out, nil
}

// Down takes the cluster away: processes, namespaces, links, cgroups, mounts and its folder. The cache of binaries stays.
func Down(ctx context.Context) error {
	dir, err := Dir()
	if err != nil {
		return err
	}
	unlock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	return down(dir)
}

// down tries for a while, since processes in the middle of a disk write die late. Mounts go with the last process of
// the namespace that has them.
func down(dir string) error {
	var err error
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err = errors.Join(lab.Clean(prefix), removeCgroups(prefix))
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// preflight tells what this machine lacks, all at once.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root: it makes namespaces and mounts")
	}
	var missing []string
	for _, tool := range []string{"runc", "conntrack", "ethtool", "socat", "ip", "nsenter", "nice", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		missing = append(missing, "CNI plugins in "+cniPlugins)
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s: run install/setup-cluster.sh", strings.Join(missing, ", "))
	}
	return nil
}

// readResolvConf prefers the list behind a resolver on loopback.
func readResolvConf() string {
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		if b, err := os.ReadFile(path); err == nil {
			return string(b)
		}
	}
	return ""
}
