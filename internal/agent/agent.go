// Package agent wires a node: objects -> state -> gateway -> xds, datapath, mtls, observe. It holds no logic of its own
// beyond what turns one plane's types into another's.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/flowexport"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/gatewaysecrets"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/traffic"
	"github.com/weft-mesh/weft/mtls"
	"github.com/weft-mesh/weft/tunnel"
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
	// NamespaceShare is gateway.Config's.
	NamespaceShare int
	// RequestExpressions is gateway.Config's.
	RequestExpressions int
	Announce           bool // this node may answer for Gateways' addresses; in a cluster only
	// GatewayNodes selects by their labels the nodes that may serve Gateways; nil for all. What others say of Gateways'
	// addresses does not count.
	GatewayNodes  labels.Selector
	CA            CA
	SVIDTTL       time.Duration // of what this node's own CA signs
	NetNSDir      string        // where container runtimes name pods' network namespaces; "" is /run/netns
	CNI           CNI
	HealthAddress string // host:port of the probes; "" for none
	// HealthSocket is a unix socket of the probes too, in a folder of the pod's own: it answers once this agent is the one
	// that serves, while HealthAddress is that of whichever serves. "" for none.
	HealthSocket string
	// MetricsAddress is host:port of what Prometheus reads; "" for none, and then Envoy does not count requests. If the port
	// is in use, the agent serves them once it is free.
	MetricsAddress string
	IstioMetrics   bool // the counts of traffic also by the names of Istio's metrics
	RequestLog     bool // a flow for each HTTP request
	NoUDPFlows     bool // no flows of datagrams and of DNS
	// ConnectionRate is how many connections a second Envoy and weft tunnel accept of one source; 0 is ratePerCPU for each
	// processor of the node.
	ConnectionRate uint32
	// Traces says where spans of requests go; nil for nowhere.
	Traces *xds.Traces
	// Export says where flows are sent.
	Export Export
	// Tunnel sends the authenticated bytes of this node's pods by weft tunnel, if weft proxy runs one, to nodes that accept
	// it, and not by HBONE.
	Tunnel bool
	// MaxConnections are those of the node's Envoy, as weft proxy has them; 100,000 if it is 0. A pod's listener gets a tenth.
	MaxConnections uint64
	// StartProxy also runs weft proxy as a process of its own, with ProxyArgs added.
	StartProxy bool
	ProxyArgs  []string
	Log        *slog.Logger
}

// flowsKept bounds what weft observe can look back at.
const flowsKept = 16384

// acceptTimeout bounds how long the kernel waits for Envoy before it makes known a first identity or a first route.
const acceptTimeout = 2 * time.Second

// leaveTimeout is how long a network namespace stays closed whose pod has gone. A pod that is renamed in a folder is
// placed again within it.
const leaveTimeout = 2 * time.Second

// ratePerCPU keeps what one source takes of the proxies below what it takes of the machine itself to make so many connections:
// see docs/security.md.
const ratePerCPU = 1000

// MaxConnectionRate is the largest Config.ConnectionRate.
const MaxConnectionRate = 1_000_000

func (c *Config) connectionRate() uint32 {
	return cmp.Or(c.ConnectionRate, uint32(ratePerCPU*runtime.NumCPU()))
}

// Agent is a node's agent.
type Agent struct {
	cfg     Config
	started time.Time
	st      *state.State
	source  Source
	where   string // the source reads
	gateway *gateway.Translator
	// selections keeps what policies select by Services for the next agent.
	selections *selectionKeeper
	xds        *xds.Server
	tunnel     *tunnel.Server
	path       *datapath.Datapath
	addrs      *addresses
	// transports says what this node's Envoy takes. loaded is closed when the first translation lacks nothing.
	transports *accepting
	loaded     chan struct{}
	mtls       *mtls.Manager
	ca         *clusterCA // nil if this node has its own
	// secrets receives the Secrets of Gateways from the controller; nil if they are read with the other objects.
	secrets     *gatewaysecrets.Receiver
	flows       *observe.Store
	detections  *detections
	names       *names
	exporters   []*flowexport.Exporter
	connections *traffic.Connections
	datagrams   *traffic.Datagrams
	requests    *traffic.Requests
	servicemap  *servicemap.Local
	proxy       *proxy.Client
	objs        *kube.Objects
	// One of these writes placements, the other is nil.
	node      *node
	manifests *placement.Manifests

	// The sockets by name, and those of them that are served. nil until the agent that ran before has left.
	sockets                                                                   sockets
	xdsSocket, tunnelSocket, apiSocket, healthSocket, metricsSocket, takeover net.Listener
	alone                                                                     bool          // no other agent ran at the start
	noOther                                                                   chan struct{} // closed when no other agent serves this node
	predecessor                                                               net.Conn      // open while this agent runs
	handover                                                                  *handover     // what the next agent asked for
}

// New prepares a node's agent. It leaves alone what a running agent has: sockets, pins, hooks.
func New(cfg Config) (*Agent, error) {
	for _, dir := range []string{cfg.RunDir, cfg.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
	}
	a := &Agent{cfg: cfg, started: time.Now(), flows: observe.NewStore(flowsKept), proxy: &proxy.Client{RunDir: cfg.RunDir}, loaded: make(chan struct{}), noOther: make(chan struct{})}
	db := state.NewDB()
	objs := kube.NewObjects(db)
	a.st = state.New(db)
	a.connections = traffic.NewConnections(a.st)
	a.requests = traffic.NewRequests(a.st, a.proxy.Requests)
	a.datagrams = traffic.NewDatagrams(a.st)
	a.servicemap = servicemap.NewLocal(a.st, a.flows, a.requests, a.connections, a.datagrams)
	a.detections, a.names = newDetections(a.flows.Add), newNames(a.flows.Add)
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
	selections := filepath.Join(cfg.StateDir, selectionsFile)
	a.gateway = gateway.New(objs, a.st, gateway.Config{
		TrustDomain: cfg.TrustDomain, Node: cfg.Node, APIServer: apiServer(a.source), NodeAddresses: cfg.NodeAddresses,
		ExternalIPs: cfg.ExternalIPs, NamespaceShare: cfg.NamespaceShare, RequestExpressions: cfg.RequestExpressions, ControllerName: gateway.ControllerName, Loaded: a.loaded, Addresses: cfg.addressSource(),
		Retained: func() gateway.Retained { return loadSelections(selections, cfg.Log) },
	}, cfg.Log)
	a.selections = &selectionKeeper{st: a.st, table: a.gateway.Selections(), file: selections, log: cfg.Log}
	if a.mtls, a.ca, err = newMTLS(cfg, objs, a.st); err != nil {
		return nil, err
	}
	a.secrets = newSecrets(cfg, objs, a.st, a.ca)
	connections, err := proxy.Connections(cmp.Or(cfg.MaxConnections, proxy.DefaultMaxConnections))
	if err != nil {
		return nil, err
	}
	a.xds = xds.New(a.st, xds.Config{
		Node: cfg.Node, TrustDomain: cfg.TrustDomain, Log: cfg.Log, AccessLog: a.accessLog, RequestLog: cfg.RequestLog,
		RequestStats: cfg.MetricsAddress != "", GatewayNetNS: proxy.NetNS, ConnectionsPerListener: max(connections/10, 1),
		Sessions: proxy.Sessions(connections), SystemRoots: systemRoots(cfg.Log), Traces: cfg.Traces, Tunnel: cfg.Tunnel,
		TunnelPort: tunnel.LastPort(cfg.RunDir),
	})
	a.tunnel = tunnel.NewServer(a.st, tunnel.Config{TrustDomain: cfg.TrustDomain, Flow: a.tunnelFlow, Lost: a.flows.AddLost, Log: cfg.Log})
	if a.path, err = datapath.New(datapath.Config{
		CgroupRoot: cfg.CgroupRoot, PinDir: cfg.PinDir, ProxyCgroup: cfg.ProxyCgroup, AcceptTimeout: acceptTimeout,
		LeaveTimeout: leaveTimeout, Tunnel: cfg.Tunnel, NoUDPFlows: cfg.NoUDPFlows, AdmissionRate: cfg.connectionRate(), Log: cfg.Log,
	}, a.st); err != nil {
		return nil, err
	}
	if a.exporters, err = newExporters(cfg, a.st, a.flows); err != nil {
		return nil, err
	}
	a.transports = &accepting{st: a.st}
	// The last step: nothing before it holds what must be closed.
	if a.addrs, err = a.newAddresses(); err != nil {
		return nil, err
	}
	return a, nil
}

// Run serves until ctx ends, or until the next agent has taken over. The hooks and Envoy go on without the agent.
func (a *Agent) Run(ctx context.Context) error {
	g, work := errgroup.WithContext(ctx)
	loaded := make(chan struct{})
	g.Go(func() error { return a.serve(work, g, loaded) })
	g.Go(func() error {
		if err := load(a.source); err != nil {
			return err
		}
		close(loaded)
		return a.source.Run(work)
	})
	g.Go(func() error { return a.gateway.Run(work) })
	if a.manifests != nil {
		g.Go(func() error { return a.manifests.Run(work) })
	}
	g.Go(func() error { return a.mtls.Run(work) })
	a.ca.run(work, g)
	if a.secrets != nil {
		g.Go(func() error { return a.secrets.Run(work) })
	}
	g.Go(func() error { return a.addrs.host.Run(work) })
	a.node.find(work, g)
	g.Go(func() error { return a.load(work) })
	g.Go(func() error { return a.returnMemory(work, shrinkEvery) })
	err := g.Wait()
	err = errors.Join(err, a.path.Close())
	if a.handover != nil {
		return a.handOver(ctx, err)
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, a.closeSockets())
}

// serve takes over from the agent that runs, and starts what one agent alone may do. Where no agent runs, the sockets come
// first: clients then wait for the objects to be read instead of being refused and coming back later.
func (a *Agent) serve(ctx context.Context, g *errgroup.Group, loaded <-chan struct{}) error {
	if err := a.listen(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-loaded: // an agent that cannot read its objects leaves the hooks alone
	}
	if err := a.released(ctx, datapath.ErrInUse, a.path.Open); err != nil {
		return err
	}
	g.Go(func() error { return a.path.Run(ctx) })
	g.Go(func() error { return a.path.Events(ctx, a.connection, a.lostEvents) })
	if !a.cfg.NoUDPFlows {
		g.Go(func() error { return a.followUDP(ctx) })
	}
	g.Go(func() error { return a.addrs.Run(ctx, a.st) })
	if !a.cfg.ofCluster() {
		g.Go(func() error { return a.transports.write(ctx, a.cfg.Node) })
	}
	g.Go(func() error { return a.enforce(ctx) })
	g.Go(func() error { return a.selections.run(ctx) })
	g.Go(func() error { return a.followProxy(ctx) })
	g.Go(func() error { return a.watchSockets(ctx) })
	g.Go(func() error { return a.xds.Serve(ctx, a.xdsSocket) })
	g.Go(func() error { return a.tunnel.Serve(ctx, a.tunnelSocket) })
	g.Go(func() error { return serveHTTP(ctx, a.apiSocket, api.Handler(a.view())) })
	a.node.run(ctx, g, &joiner{objs: a.objs, st: a.st})
	if a.healthSocket != nil {
		g.Go(func() error { return serveHTTP(ctx, a.healthSocket, a.health()) })
	}
	if a.cfg.HealthSocket != "" {
		l, err := listenUnix(a.cfg.HealthSocket)
		if err != nil {
			return fmt.Errorf("--health-socket: %w", err)
		}
		g.Go(func() error { return serveHTTP(ctx, l, a.health()) })
	}
	if a.cfg.MetricsAddress != "" {
		g.Go(func() error { return a.serveMetrics(ctx, a.metricsHandler(), metricsRetry) })
	}
	if uplink := a.newUplink(); uplink != nil {
		g.Go(func() error { return uplink.Run(ctx) })
	}
	for _, x := range a.exporters {
		g.Go(func() error { return x.Run(ctx) })
	}
	if a.cfg.StartProxy {
		g.Go(func() error { return a.keepProxy(ctx) })
	}
	g.Go(func() error { return a.awaitSuccessor(ctx) })
	return nil
}
