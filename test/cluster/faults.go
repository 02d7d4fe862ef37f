package cluster

import (
	"context"
	"fmt"
	"strings"
)

// KillNode ends a node as a power cut does: all its processes at once, pods included, its network, and all that it held
// in memory: /run, /sys/fs/bpf, its namespaces. What is on its disk stays: /etc, /opt, /var. The API server is told nothing.
func (c *Cluster) KillNode(name string) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if err := n.machine.Remove(); err != nil { // mounts go with the last process of the namespace that has them
		return fmt.Errorf("kill node %s: %w", name, err)
	}
	n.runtime, n.kubelet = nil, nil
	return removeCgroups(n.machine.Cgroup)
}

// BootNode starts a node that KillNode ended, on its disk and with its addresses. It returns when the kubelet has
// started; the kubelet then starts the pods again.
func (c *Cluster) BootNode(ctx context.Context, name string) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	if err := n.machine.Recreate(); err != nil {
		return fmt.Errorf("boot node %s: %w", name, err)
	}
	if err := n.makeCgroups(); err != nil {
		return err
	}
	if err := n.machine.Do(func() error { return addRoutes("eth0", n.machine.Address, c.nodes) }); err != nil {
		return fmt.Errorf("boot node %s: %w", name, err)
	}
	defer n.leave()
	return n.boot(ctx, nil)
}

// RebootNode kills a node and boots it.
func (c *Cluster) RebootNode(ctx context.Context, name string) error {
	if err := c.KillNode(name); err != nil {
		return err
	}
	return c.BootNode(ctx, name)
}

func (c *Cluster) node(name string) (*node, error) {
	var names []string
	for _, n := range c.nodes {
		if n.name == name {
			return n, nil
		}
		names = append(names, n.name)
	}
	return nil, fmt.Errorf("no node %s: have %s", name, strings.Join(names, ", "))
}

// Nodes names the nodes.
func (c *Cluster) Nodes() []string {
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.name)
	}
	return out
}

// Link is the host's end of a node's link: all that the node sends and receives passes it.
func (c *Cluster) Link(node string) (string, error) {
	n, err := c.node(node)
	if err != nil {
		return "", err
	}
	return n.machine.HostLink, nil
}

// ImportImages gives image archives (OCI layouts or Docker's, as tar files) to every node.
func (c *Cluster) ImportImages(ctx context.Context, archives ...string) error {
	for _, n := range c.nodes {
		for _, a := range archives {
			cmd, err := c.NodeCommand(ctx, n.name, c.bin["ctr"], "--namespace", "k8s.io", "images", "import", a)
			if err != nil {
				return err
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("node %s: import image %s: %w: %s", n.name, a, err, tail(out, 3))
			}
		}
	}
	return nil
}
