package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// clusterFlags say which cluster a command asks.
type clusterFlags struct {
	survey.Options
	namespace string // the mesh's own
}

func (c *clusterFlags) flags(f *pflag.FlagSet) {
	apiServerFlags(f, &c.Options)
	f.StringVar(&c.namespace, "mesh-namespace", "weft-system", "namespace that Weft is installed in")
}

// apiServerFlags say which API server a command asks.
func apiServerFlags(f *pflag.FlagSet, c *survey.Options) {
	f.StringVar(&c.Kubeconfig, "kubeconfig", "", "file that names the API server (default: as kubectl finds it)")
	f.StringVar(&c.Context, "context", "", "context of the kubeconfig")
}

// known reports whether there is a cluster to ask.
func (c *clusterFlags) known() bool { return c.Kubeconfig != "" || c.Context != "" || survey.Known() }

// reach says whose agents a command asks: this machine's, or a cluster's.
type reach struct {
	clusterFlags
	node string
	run  *string
}

func (r *reach) flags(f *pflag.FlagSet) {
	r.clusterFlags.flags(f)
	f.StringVar(&r.node, "node", "", "only this node of the cluster")
}

// local gives this machine's agent where it is the one to ask: it is here, or the only one that is known.
func (r *reach) local() *api.Client {
	if r.node != "" || r.Kubeconfig != "" || r.Context != "" {
		return nil
	}
	if *r.run == DefaultRun && survey.Known() {
		if _, err := os.Lstat(filepath.Join(*r.run, api.SocketName)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return api.NewClient(*r.run)
}

// open finds the cluster's agents, or the one of the node that was named.
func (r *reach) open(ctx context.Context) (*fleet, error) {
	if !r.known() {
		return nil, errors.New("no cluster is known: name one by --kubeconfig")
	}
	c, err := survey.Open(r.Options)
	if err != nil {
		return nil, err
	}
	pods, err := c.Pods(ctx, r.namespace)
	if err != nil {
		return nil, err
	}
	f := newFleet(c, r.namespace, pods)
	if len(f.agents) == 0 {
		return nil, fmt.Errorf("%s: no agent of Weft in namespace %s; see weft check, or name another namespace by --mesh-namespace", c.Host(), r.namespace)
	}
	if r.node == "" {
		return f, nil
	}
	var nodes []string
	for _, p := range f.agents {
		nodes = append(nodes, p.Node)
	}
	at := slices.Index(nodes, r.node)
	if at < 0 {
		return nil, fmt.Errorf("node %s has no agent; there are %s", r.node, strings.Join(nodes, ", "))
	}
	f.agents = f.agents[at : at+1]
	return f, nil
}
