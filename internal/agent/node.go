package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// placementsFile in the run directory holds where pods run. It goes with their namespaces when the machine restarts.
	placementsFile = "placements.json"
	// modesFile in the state directory holds the namespaces' modes.
	modesFile = "namespaces.json"
)

// CNI says how a node's container runtime is told of the mesh.
type CNI struct {
	// Install keeps the plugin in the network configurations of ConfDir, and its binary in BinDir.
	Install         bool
	ConfDir, BinDir string
	LogFile         string // of the plugin, on the node
}

// node is what only the agent of a cluster's node has. With a folder, manifests say where pods run.
type node struct {
	sandboxes *placement.Sandboxes
	modes     *modes
	socket    net.Listener
	self      cni.Settings
	log       *slog.Logger

	installer *cni.Installer // nil if the plugin is not to be installed
}

// newNode returns nil for a folder of manifests.
func newNode(cfg Config, objs *kube.Objects, st *state.State, s Source) (*node, error) {
	c, ok := s.(*cluster.Cluster)
	if !ok {
		if cfg.CNI.Install {
			return nil, errors.New("--cni needs an API server: in a folder, manifests say where pods run")
		}
		return nil, nil
	}
	root := cfg.CgroupRoot
	if root == "" {
		var err error
		if root, err = datapath.CgroupMount(); err != nil {
			return nil, err
		}
	}
	if cfg.NetNSDir == "" {
		cfg.NetNSDir = "/run/netns"
	}
	n := &node{
		log:   cfg.Log,
		modes: newModes(objs, c.Loaded(), filepath.Join(cfg.StateDir, modesFile), cfg.Log),
		sandboxes: placement.NewSandboxes(placement.Config{
			Objects: objs, State: st, Loaded: c.Loaded(), Node: cfg.Node, File: filepath.Join(cfg.RunDir, placementsFile), Log: cfg.Log,
			Scanner: placement.Scanner{CgroupRoot: root, NetNSDir: cfg.NetNSDir, Proc: "/proc"},
		}),
		self: cni.Settings{
			Socket: filepath.Join(cfg.RunDir, cniSocket), Modes: filepath.Join(cfg.StateDir, modesFile), LogFile: cfg.CNI.LogFile,
		},
	}
	if cfg.CNI.Install {
		n.installer = cni.NewInstaller(cni.InstallerConfig{ConfDir: cfg.CNI.ConfDir, BinDir: cfg.CNI.BinDir, Settings: n.self, State: st, Log: cfg.Log})
	}
	return n, nil
}

// listener is where the plugin's socket goes; nil for an agent that the plugin does not call.
func (n *node) listener() *net.Listener {
	if n == nil {
		return nil
	}
	return &n.socket
}

// find looks for pods and keeps the namespaces' modes.
func (n *node) find(ctx context.Context, g *errgroup.Group) {
	if n == nil {
		return
	}
	g.Go(func() error { return n.sandboxes.Run(ctx) })
	g.Go(func() error { return n.modes.run(ctx) })
}

// run serves the plugin and keeps it installed.
func (n *node) run(ctx context.Context, g *errgroup.Group, j *joiner) {
	if n == nil {
		return
	}
	n.sandboxes.Own()
	j.sandboxes, j.strict, j.log, j.limit, j.patience = n.sandboxes, n.modes.strict, n.log, joinLimit, joinPatience
	g.Go(func() error { return serveHTTP(ctx, n.socket, cni.Handler(j)) })
	if n.installer != nil {
		g.Go(func() error { return n.install(ctx) })
	}
}

// install waits until namespaces are known, or an agent that never reads any would let no pod start. It does not wait for
// the file: where the disk is full, pods that may not start outside the mesh must not start without the plugin.
func (n *node) install(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.modes.known:
	}
	if err := n.installer.Run(ctx); err != nil {
		return fmt.Errorf("install the CNI plugin: %w", err)
	}
	return nil
}

// placed is closed when objects are read and it is known where the pods of this node run: what is translated before
// would lack pods that run.
func (a *Agent) placed() <-chan struct{} {
	if a.node == nil {
		return a.manifests.Placed()
	}
	return a.node.sandboxes.Placed()
}
