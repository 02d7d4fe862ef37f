package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/state"
)

// Source keeps the object tables, Problems among them, equal to what users wrote: *manifests.Folder or *cluster.Cluster.
type Source interface {
	// Run follows changes until ctx ends.
	Run(ctx context.Context) error
	// Loaded is closed when everything was read once.
	Loaded() <-chan struct{}
}

// newSource gives the source that the configuration names, and where it reads.
func newSource(cfg Config, objs *kube.Objects) (s Source, where string, err error) {
	if cfg.ofCluster() {
		if cfg.Manifests != "" || cfg.InCluster && cfg.Kubeconfig != "" {
			return nil, "", errors.New("objects come from one place: --manifests, --kubeconfig or --in-cluster")
		}
		rc, err := cluster.Config(cfg.Kubeconfig)
		if err != nil {
			return nil, "", err
		}
		rc.UserAgent = "weft-agent"
		opts := cluster.Options{Log: cfg.Log}
		if cfg.GatewayNodes != nil {
			requirements, _ := cfg.GatewayNodes.Requirements()
			for _, r := range requirements {
				opts.NodeLabels = append(opts.NodeLabels, r.Key())
			}
		}
		if !cfg.CA.Controller { // which sends what is needed of them
			opts.Secrets = true
			opts.ConfigMaps = func(s *state.Snapshot) []string {
				keys, _ := gateway.UsedConfigMaps(objs, gateway.ControllerName, s)
				return keys
			}
		}
		return cluster.New(rc, objs, opts), rc.Host, nil
	}
	if info, err := os.Stat(cfg.Manifests); err != nil {
		return nil, "", fmt.Errorf("--manifests: %w", err)
	} else if !info.IsDir() {
		return nil, "", fmt.Errorf("--manifests: %s is not a folder", cfg.Manifests)
	}
	return manifests.NewFolder(cfg.Manifests, objs, manifests.FolderOptions{Log: cfg.Log}), cfg.Manifests, nil
}

// ofCluster reports whether the objects are an API server's.
func (c Config) ofCluster() bool { return c.InCluster || c.Kubeconfig != "" }

// addressSource: nodes of a cluster take the addresses of Gateways that its controller gave.
func (c Config) addressSource() gateway.AddressSource {
	if c.ofCluster() {
		return gateway.AddressesOfStatus
	}
	return gateway.AddressesOfNode
}

// apiServer gives the address that objects are read from, if they are an API server's and it has an address for a name.
func apiServer(s Source) netip.AddrPort {
	if c, ok := s.(*cluster.Cluster); ok {
		return c.Address()
	}
	return netip.AddrPort{}
}

// load reads a folder once, so that one that cannot be read is an error of the start.
func load(s Source) error {
	if f, ok := s.(interface{ Load() error }); ok {
		return f.Load()
	}
	return nil
}
