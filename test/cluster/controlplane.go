package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"
)

// startControlPlane starts etcd, the API server, the controller manager and the scheduler on the control plane's machine.
func (c *Cluster) startControlPlane(ctx context.Context, l launch) error {
	c.API = c.api(l)
	if err := c.API.prepare(); err != nil {
		return err
	}
	if err := c.API.Start(ctx); err != nil {
		return err
	}
	return c.startManagers(l)
}

// startManagers starts the controller manager and the scheduler.
func (c *Cluster) startManagers(l launch) error {
	ca := c.API.ca
	manager, scheduler := filepath.Join(c.dir, "kubeconfig-manager"), filepath.Join(c.dir, "kubeconfig-scheduler")
	if err := errors.Join(
		ca.kubeconfig(manager, c.API.URL, subject{name: "system:kube-controller-manager"}),
		ca.kubeconfig(scheduler, c.API.URL, subject{name: "system:kube-scheduler"}),
	); err != nil {
		return err
	}
	var err error
	c.manager, err = start(l, "kube-controller-manager", c.bin["kube-controller-manager"],
		"--kubeconfig", manager, "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file", ca.file("sa.key"), "--root-ca-file", ca.file("ca.crt"),
		"--cluster-signing-cert-file", ca.file("ca.crt"), "--cluster-signing-key-file", ca.file("ca.key"))
	if err != nil {
		return err
	}
	c.scheduler, err = start(l, "kube-scheduler", c.bin["kube-scheduler"], "--kubeconfig", scheduler, "--leader-elect=false")
	return err
}

// StopAPIServer ends the API server as an outage does. The controller manager and the scheduler end too: where there are
// several they hold Leases, and end when they cannot renew them. One that lived through the outage would take all nodes
// for dead at its end.
func (c *Cluster) StopAPIServer() {
	for _, p := range []**process{&c.manager, &c.scheduler} {
		if *p != nil {
			(*p).stop(5 * time.Second)
			*p = nil
		}
	}
	c.API.StopServing()
}

// StartAPIServer ends the outage.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if err := c.API.Start(ctx); err != nil {
		return err
	}
	if c.manager != nil && c.scheduler != nil {
		return nil
	}
	l, err := c.launchOn(c.machine, "", c.machine.Do)
	if err != nil {
		return err
	}
	return c.startManagers(l)
}

// api is the cluster's API server, not started.
func (c *Cluster) api(l launch) *API {
	return &API{dir: c.dir, bin: c.bin, address: c.machine.Address.String(), port: 6443, etcdPort: [2]int{2379, 2380}, launch: l}
}

// APIAddress is where the API server answers without a mesh: to pods, nodes and this machine alike.
var APIAddress = netip.AddrPortFrom(netip.MustParseAddr("10.89.0.2"), 6443)

// registered waits until the nodes are known and ready, and gives them the range of their pods' addresses, which a
// cluster without a cloud leaves to its administrator.
func (c *Cluster) registered(ctx context.Context) error {
	for _, n := range c.nodes {
		for _, args := range [][]string{
			{"wait", "--for=create", "node/" + n.name, "--timeout=90s"},
			{"patch", "node", n.name, "--patch", fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, n.podCIDR, n.podCIDR)},
			{"wait", "--for=condition=Ready", "node/" + n.name, "--timeout=90s"},
		} {
			if out, err := c.Kubectl(ctx, nil, args...); err != nil {
				return errors.Join(fmt.Errorf("node %s: %w: %s: see %s", n.name, err, tail(out, 3), n.kubelet.log), n.kubelet.ended())
			}
		}
	}
	return nil
}

// deployDNS deploys CoreDNS, which reaches the API server at its own address, since no mesh balances the Service yet.
func (c *Cluster) deployDNS(ctx context.Context) error {
	manifest, err := manifests.ReadFile("manifests/coredns.yaml")
	if err != nil {
		return err
	}
	out, err := c.Kubectl(ctx, manifest, "apply", "-f", "-")
	if err != nil {
		return fmt.Errorf("deploy CoreDNS: %w: %s", err, tail(out, 5))
	}
	out, err = c.Kubectl(ctx, nil, "--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s")
	if err != nil {
		return fmt.Errorf("CoreDNS: %w: %s: see its log: kubectl -n kube-system logs deployment/coredns", err, tail(out, 5))
	}
	return nil
}
