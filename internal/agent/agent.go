// Package agent wires a node: objects -> state -> gateway -> xds, datapath, mtls, observe. It holds no logic of its own
// beyond what turns one plane's types into another's.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/metrics"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/mtls"
	"github.com/weft-mesh/weft/xds"
)

// Config of a node.
type Config struct {
	// Objects come from one of these: a folder of manifests, or an API server by a kubeconfig or as the pod that we are.
	Manifests     string
	Kubeconfig    string
	InCluster     bool
	RunDir        string // sockets
	StateDir      string // the CA's key, or what it signed
	PinDir        string // "" is datapath's default
	CgroupRoot    string // "" is the cgroup2 mount
	ProxyCgroup   string // below CgroupRoot; "" is datapath's default
	Version       string // of weft
	Node          string
	TrustDomain   string
	NodeAddresses []netip.Addr
	ExternalIPs   []netip.Prefix // in which Services may have addresses by spec.externalIPs
	Announce      bool           // this node may answer for Gateways' addresses; in a cluster only
	CA            CA
	SVIDTTL       time.Duration // of what this node's own CA signs
	NetNSDir      string        // where container runtimes name pods' network namespaces; "" is /run/netns
	CNI           CNI
	HealthAddress string // host:port of the probes; "" for none
	// MetricsAddress is host:port of what Prometheus reads; "" for none.
	MetricsAddress string
	RequestLog     bool // a flow for each HTTP request
	// StartProxy also runs weft proxy as a process of its own, with ProxyArgs added.
	StartProxy bool
	ProxyArgs  []string
	Log        *slog.Logger
}

// flowsKept bounds what weft observe can look back at.
const flowsKept = 16384

// acceptTimeout bounds how long the kernel waits for Envoy before it makes known a first identity or a first route.
const acceptTimeout = 2 * time.Second

// Agent is a node's agent.
type Agent struct {
	cfg     Config
	started time.Time
	st      *state.State
	source  Source
	where   string // the source reads
	gateway *gateway.Translator
	xds     *xds.Server
	path    *datapath.Datapath
	addrs   *addresses
	mtls    *mtls.Manager
	ca      *clusterCA // nil if this node has its own
	flows   *observe.Store
	proxy   *proxy.Client
	objs    *kube.Objects
	// One of these writes placements, the other is nil.
	node      *node
	manifests *placement.Manifests

	xdsSocket, apiSocket, healthSocket, metricsSocket net.Listener
}

// New opens what the node needs: the CA, the eBPF programs. Close releases it; hooks stay in the kernel.
func New(cfg Config) (*Agent, error) {
	for _, dir := range []string{cfg.RunDir, cfg.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	a := &Agent{cfg: cfg, started: time.Now(), flows: observe.NewStore(flowsKept), proxy: &proxy.Client{RunDir: cfg.RunDir}}
	db := state.NewDB()
	objs := kube.NewObjects(db)
	a.st = state.New(db)
	var err error
	if a.source, a.where, err = newSource(cfg, objs); err != nil {
		return nil, err
	}
	a.objs = objs
	if a.node, err = newNode(cfg, objs, a.st, a.source); err != nil {
		return nil, err
	}
	if a.node == nil {
		a.manifests = placement.NewManifests(placement.ManifestsConfig{
			Objects: objs, State: a.st, NetNSDir: cfg.NetNSDir, Loaded: a.source.Loaded(), Log: cfg.Log,
		})
	}
	a.gateway = gateway.New(objs, a.st, gateway.Config{
		TrustDomain: cfg.TrustDomain, Node: cfg.Node, APIServer: apiServer(a.source), NodeAddresses: cfg.NodeAddresses,
		ExternalIPs: cfg.ExternalIPs, ControllerName: gateway.ControllerName, Loaded: a.placed(), Addresses: cfg.addressSource(),
	}, cfg.Log)
	if a.mtls, a.ca, err = newMTLS(cfg, objs, a.st); err != nil {
		return nil, err
	}
	dcfg := datapath.Config{
		CgroupRoot: cfg.CgroupRoot, PinDir: cfg.PinDir, ProxyCgroup: cfg.ProxyCgroup,
		AcceptTimeout: acceptTimeout, Log: cfg.Log,
	}
	// The sockets first: an agent that cannot have them, for another one does, must not touch the kernel.
	if err := a.listen(); err != nil {
		return nil, errors.Join(err, a.closeSockets())
	}
	if a.path, err = datapath.Open(dcfg, a.st); err != nil {
		return nil, errors.Join(err, a.closeSockets())
	}
	if a.addrs, err = a.newAddresses(); err != nil {
		return nil, errors.Join(err, a.xdsSocket.Close(), a.apiSocket.Close(), a.path.Close())
	}
	a.xds = xds.New(a.st, xds.Config{
		Node: cfg.Node, TrustDomain: cfg.TrustDomain, Log: cfg.Log, AccessLog: a.accessLog, RequestLog: cfg.RequestLog,
	})
	return a, nil
}

func (a *Agent) listen() (err error) {
	if a.xdsSocket, err = listenUnix(filepath.Join(a.cfg.RunDir, xdsSocket)); err != nil {
		return err
	}
	if a.apiSocket, err = listenUnix(filepath.Join(a.cfg.RunDir, api.SocketName)); err != nil {
		return err
	}
	if a.healthSocket, err = listenTCP("--health-address", a.cfg.HealthAddress); err != nil {
		return err
	}
	if a.metricsSocket, err = listenTCP("--metrics-address", a.cfg.MetricsAddress); err != nil {
		return err
	}
	return a.node.listen()
}

func (a *Agent) closeSockets() error {
	errs := []error{a.node.close()}
	for _, l := range []net.Listener{a.xdsSocket, a.apiSocket, a.healthSocket, a.metricsSocket} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends. The hooks and Envoy go on without the agent.
func (a *Agent) Run(ctx context.Context) error {
	if err := load(a.source); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.source.Run(ctx) })
	g.Go(func() error { return a.gateway.Run(ctx) })
	if a.manifests != nil {
		g.Go(func() error { return a.manifests.Run(ctx) })
	}
	g.Go(func() error { return a.mtls.Run(ctx) })
	a.ca.run(ctx, g)
	g.Go(func() error { return a.returnMemory(ctx) })
	g.Go(func() error { return a.path.Run(ctx) })
	g.Go(func() error { return a.path.Events(ctx, a.connection, a.flows.AddLost) })
	g.Go(func() error { return a.addrs.Run(ctx, a.st) })
	g.Go(func() error { return a.enforce(ctx) })
	g.Go(func() error { return a.watchSockets(ctx) })
	g.Go(func() error { return a.xds.Serve(ctx, a.xdsSocket) })
	g.Go(func() error { return serveHTTP(ctx, a.apiSocket, api.Handler(a)) })
	a.node.run(ctx, g, &joiner{objs: a.objs, st: a.st})
	if a.healthSocket != nil {
		g.Go(func() error { return serveHTTP(ctx, a.healthSocket, a.health()) })
	}
	if a.metricsSocket != nil {
		g.Go(func() error { return serveHTTP(ctx, a.metricsSocket, metrics.Handler(a, a.proxy.Metrics)) })
	}
	if a.cfg.StartProxy {
		g.Go(func() error { return a.keepProxy(ctx) })
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, a.path.Close())
}
