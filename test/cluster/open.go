package cluster

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/weft-mesh/weft/internal/lab"
)

// Open gives the cluster that is up, which another process brought up; ErrNone if there is none.
func Open(ctx context.Context, log *slog.Logger) (*Cluster, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, log: log}
	ca, err := openAuthority(filepath.Join(dir, "pki"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	if c.bin, err = Build(ctx, log, Everything...); err != nil {
		return nil, err
	}
	if err := c.openMachines(); err != nil {
		return nil, err
	}
	l, err := c.launchOn(c.machine, "", c.machine.Do)
	if err != nil {
		return nil, err
	}
	c.API = c.api(l)
	c.API.open(ca)
	c.manager, c.scheduler = running(c.dir, "kube-controller-manager"), running(c.dir, "kube-scheduler")
	return c, nil
}

func (c *Cluster) openMachines() (err error) {
	names := []string{controlPlane}
	for i := 1; i <= maxNodes; i++ {
		if _, err := os.Stat(filepath.Join(c.dir, nodeName(i))); err == nil {
			names = append(names, nodeName(i))
		}
	}
	if c.lab, err = lab.Adopt(prefix, machines, names...); err != nil {
		return err
	}
	for i, m := range c.lab.Pods() {
		if i == 0 {
			c.machine = m
			continue
		}
		n := c.addNode(i, m)
		n.runtime, n.kubelet = running(c.dir, "containerd-"+n.name), running(c.dir, "kubelet-"+n.name)
	}
	return nil
}
