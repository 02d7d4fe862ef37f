package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

//go:embed manifests
var manifests embed.FS

const (
	prefix       = "wcl" // of all names: cgroups, namespaces, links
	controlPlane = "cp"
	maxNodes     = 8
)

var machines = netip.MustParsePrefix("10.89.0.0/24")

// Pool holds addresses that are on the link of all machines, the host's too, and that none has: for Gateways, which
// whoever has one announces by ARP.
var Pool = netip.MustParsePrefix("10.89.1.0/24")

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
	l, err := c.launchOn(c.machine, "", c.machine.Do)
	if err != nil {
		return err
	}
	c.log.Info("starting the control plane", "address", APIAddress)
	if err := c.startControlPlane(ctx, l); err != nil {
		return err
	}
	for _, n := range c.nodes {
		c.log.Info("starting node", "node", n.name, "address", n.machine.Address, "pods", n.podCIDR)
		if err := n.boot(ctx, archives); err != nil {
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
	if c.machine, err = c.lab.AddPod(controlPlane); err != nil {
		return err
	}
	if c.machine.Address != APIAddress.Addr() {
		return fmt.Errorf("the control plane has address %s, want %s", c.machine.Address, APIAddress.Addr())
	}
	for i := 1; i <= nodes; i++ {
		m, err := c.lab.AddPod(nodeName(i))
		if err != nil {
			return err
		}
		n := c.addNode(i, m)
		if err := errors.Join(os.MkdirAll(n.dir, 0o755), n.makeCgroups()); err != nil {
			return err
		}
	}
	return c.route()
}

// addNode adds a node, which counts from 1, on a machine.
func (c *Cluster) addNode(i int, m *lab.Pod) *node {
	n := &node{name: m.Name, podCIDR: podCIDR(i), dir: filepath.Join(c.dir, m.Name), machine: m, cluster: c}
	c.nodes = append(c.nodes, n)
	return n
}

// route gives the host and all machines the routes that they need.
func (c *Cluster) route() error {
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

// launchOn starts processes on a machine, in a cgroup of it, by which down finds them and all their children.
func (c *Cluster) launchOn(m *lab.Pod, cgroup string, within func(func() error) error) (launch, error) {
	root, err := lab.CgroupMount()
	if err != nil {
		return launch{}, err
	}
	cgroup = filepath.Join(root, m.Cgroup, cgroup)
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		return launch{}, fmt.Errorf("cgroup of machine %s: %w", m.Name, err)
	}
	path := filepath.Dir(c.bin["containerd"]) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin" // containerd looks for its shim and runc
	return launch{dir: c.dir, cgroup: cgroup, within: within, lasts: true, env: []string{"PATH=" + path}}, nil
}

// release frees what only the start needed.
func (c *Cluster) release() {
	for _, n := range c.nodes {
		n.leave()
	}
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
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		out[e.Name()] = err == nil && lives(pid)
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
