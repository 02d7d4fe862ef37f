package agent

import (
	"context"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weft-mesh/weft/internal/announce"
	"github.com/weft-mesh/weft/internal/hostaddr"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/state"
)

// addresses brings what is sent to the Gateways' addresses to this host: all of it where it is alone, and in a cluster,
// for the addresses that this node is elected for. In a cluster it also keeps the node's report, by the same client.
type addresses struct {
	host    *hostaddr.Watcher
	local   *hostaddr.LocalRoutes // nil in a cluster
	links   *hostaddr.Announcer   // nil on a node alone; elector and report too
	elector *announce.Elector
	report  *nodereport.Writer
}

func (a *Agent) newAddresses() (*addresses, error) {
	host, err := hostaddr.Watch(a.st, a.cfg.Log)
	if err != nil {
		return nil, err
	}
	if !a.cfg.ofCluster() {
		return &addresses{host: host, local: hostaddr.NewLocalRoutes(a.cfg.Log)}, nil
	}
	rc, err := cluster.Config(a.cfg.Kubeconfig)
	if err != nil {
		host.Close()
		return nil, err
	}
	rc.UserAgent = "weft-agent"
	return &addresses{
		host: host, links: hostaddr.NewAnnouncer(a.cfg.Log),
		elector: announce.New(a.st, announce.Config{
			Kube: rc, Node: a.cfg.Node, Log: a.cfg.Log,
			Ready: func() bool {
				s := a.st.Snapshot()
				return a.cfg.Announce && a.st.ServesGateways(s) && a.st.EnvoyConnected(s)
			},
			Accepts: a.transports.accepted,
			Serves:  a.mayServeGateways,
		}),
		report: nodereport.New(a.st, nodereport.Config{Kube: rc, Node: a.cfg.Node, Log: a.cfg.Log}),
	}, nil
}

// mayServeGateways reports whether a node may serve Gateways, by the labels of its Node object: not by what its agent says.
// Until all objects were read that is not known of any.
func (a *Agent) mayServeGateways(node string) (may, known bool) {
	if a.cfg.GatewayNodes == nil {
		return true, true
	}
	select {
	case <-a.st.Synced():
	default:
		return false, false
	}
	n, ok := a.objs.Nodes.Get(a.st.Snapshot(), model.Key("", node))
	return ok && a.cfg.GatewayNodes.Matches(labels.Set(n.Labels)), true
}

// Run works until ctx ends. The addresses stay then.
func (a *addresses) Run(ctx context.Context, st *state.State) error {
	g, ctx := errgroup.WithContext(ctx)
	if a.local != nil {
		g.Go(func() error { return a.local.Run(ctx, st) })
		return g.Wait()
	}
	g.Go(func() error { return a.links.Run(ctx, st) })
	g.Go(func() error { return a.elector.Run(ctx) })
	g.Go(func() error { return a.report.Run(ctx) })
	return g.Wait()
}
