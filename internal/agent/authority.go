package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/mtls"
)

// CA says who signs SVIDs.
type CA struct {
	// Controller: the cluster's CA, which the replicas of the controller are. Otherwise this node has its own, which no
	// other node trusts.
	Controller bool
	// TokenFile holds the agent's ServiceAccount token for the cluster's CA.
	TokenFile string
}

const (
	// caPort is the CA's in the pods of the controller.
	caPort = 15012
	// trustBundle is the ConfigMap that the controller keeps, caKey the key in it.
	// svidsDir in the state directory keeps what the cluster's CA signed, keys included.
	svidsDir           = "svids"
	trustBundle, caKey = "weft-trust-bundle", "ca.crt"
)

// clusterCA is the way to the cluster's CA: what tells where it is, and whom to trust.
type clusterCA struct {
	remote *mtls.Remote
	cfg    Config
	objs   *kube.Objects
	log    *slog.Logger
}

// newMTLS gives the manager of SVIDs, and nil for a CA of this node.
func newMTLS(cfg Config, objs *kube.Objects, st *state.State) (*mtls.Manager, *clusterCA, error) {
	mcfg := mtls.Config{TrustDomain: cfg.TrustDomain, StateDir: cfg.StateDir, TTL: cfg.SVIDTTL, Log: cfg.Log}
	if !cfg.CA.Controller {
		ca, err := mtls.OpenCA(mcfg)
		if err != nil {
			return nil, nil, err
		}
		return mtls.New(st, ca, mcfg), nil, nil
	}
	if !cfg.ofCluster() {
		return nil, nil, errors.New("--ca controller needs an API server: a folder of manifests has no controller")
	}
	var err error
	if mcfg.Kept, err = mtls.OpenSVIDStore(cfg.TrustDomain, filepath.Join(cfg.StateDir, svidsDir)); err != nil {
		return nil, nil, err
	}
	c := &clusterCA{cfg: cfg, objs: objs, log: cfg.Log}
	c.remote = mtls.NewRemote(mtls.RemoteConfig{
		TrustDomain: cfg.TrustDomain, Server: model.NewIdentity(cfg.TrustDomain, kube.Namespace, "weft-controller"),
		TokenFile: cfg.CA.TokenFile, Kept: mcfg.Kept, Log: cfg.Log,
		Replicas: func() []netip.AddrPort { return c.replicas(objs.DB.Snapshot()) },
	})
	return mtls.New(st, c.remote, mcfg), c, nil
}

// replicas are found in this agent's own tables: neither Services nor DNS need to work for it.
func (c *clusterCA) replicas(s *state.Snapshot) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range c.objs.ComponentPods(s, "controller") {
		out = append(out, netip.AddrPortFrom(a, caPort))
	}
	return out
}

// watchReplicas calls back with the replicas, and again when they are others, until ctx ends.
func (c *clusterCA) watchReplicas(ctx context.Context, now func([]netip.AddrPort)) error {
	feed := c.objs.DB.Feed(c.objs.Pods)
	defer feed.Close()
	deps := state.NewDeps[string]()
	const reader = "replicas"
	for {
		s := c.objs.DB.Track()
		now(c.replicas(s))
		deps.Set(reader, s.Reads())
		if !deps.Wait(ctx, feed) {
			return nil
		}
	}
}

// run follows the trust bundle and the CA's replicas until ctx ends.
func (c *clusterCA) run(ctx context.Context, g *errgroup.Group) {
	if c == nil {
		return
	}
	g.Go(func() error { return c.followBundle(ctx) })
	g.Go(func() error { return c.followReplicas(ctx) })
}

func (c *clusterCA) followBundle(ctx context.Context) error {
	rc, err := cluster.Config(c.cfg.Kubeconfig)
	if err != nil {
		return err
	}
	rc.UserAgent = "weft-agent"
	return cluster.FollowConfigMap(ctx, rc, kube.Namespace, trustBundle, func(data map[string]string) {
		if err := c.remote.SetBundle([]byte(data[caKey])); err != nil {
			c.log.Error("the trust bundle is refused, the last one stays in force",
				"object", fmt.Sprintf("ConfigMap %s/%s", kube.Namespace, trustBundle), "error", err)
		}
	})
}

// followReplicas has what failed tried again as soon as there is another replica, or one is ready again.
func (c *clusterCA) followReplicas(ctx context.Context) error {
	defer c.remote.Close()
	return c.watchReplicas(ctx, func([]netip.AddrPort) { c.remote.Nudge() })
}
