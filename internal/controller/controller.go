package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/ca"
	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/kube/gatewaysecrets"
	"github.com/weft-mesh/weft/internal/state"
)

// Config of a controller.
type Config struct {
	Kube        *rest.Config
	TrustDomain string
	// Identity is unique among the replicas: a pod's name.
	Identity string
	// Namespace and Lease name the lock of the replicas.
	Namespace, Lease string
	// Election tells how fast another replica takes over; the zero value is DefaultElection.
	Election Election
	// Defaults makes the controller create the GatewayClass and the XMesh named weft where they are missing.
	Defaults bool
	// CAAddress is host:port of the CA's service; "" for no CA. SVIDTTL is the life of what it signs, 0 for the default.
	CAAddress string
	SVIDTTL   time.Duration
	// FlowsAddress is host:port of the flows API, "" for none; it needs the CA. Version is that of weft, which it shows.
	FlowsAddress, Version string
	// MapAddress is host:port of the service map's page, "" for none; it needs the flows API.
	MapAddress string
	// ExternalIPs are the ranges in which Services may have addresses by spec.externalIPs, as given to weft agent.
	ExternalIPs []netip.Prefix
	// NamespaceShare is gateway.Config's, as given to weft agent.
	NamespaceShare int
	// RequestExpressions is gateway.Config's, as given to weft agent.
	RequestExpressions int
	// GatewayNodes selects by their labels the nodes that may serve Gateways; nil for all. Others get no certificate or key
	// of a Gateway.
	GatewayNodes labels.Selector
	// Writes bounds the status writes in a second; 0 is 100.
	Writes int
	Log    *slog.Logger
}

// Election holds the times of a leader election: another replica takes over Lease after the last renewal; who cannot
// renew for Renew stops; Retry lies between attempts.
type Election struct{ Lease, Renew, Retry time.Duration }

// DefaultElection is that of Kubernetes' own controllers.
var DefaultElection = Election{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}

const (
	defaultLease  = "weft-controller"
	defaultWrites = 100
)

// Controller is one replica.
type Controller struct {
	cfg        Config
	objs       *kube.Objects
	st         *state.State
	notes      *state.Table[*note]
	schemas    *state.Table[*kindSchema]
	reports    *reports
	cluster    *cluster.Cluster
	translator *gateway.Translator
	ca         *ca.CA // nil for none
	secrets    *gatewaysecrets.Publisher
	flows      *flows        // nil for none
	leads      chan struct{} // closed when this replica has held the Lease for the first time
	ready      chan struct{}
	once       sync.Once
}

// New makes a controller. Nothing is asked of the API server yet.
func New(cfg Config) (*Controller, error) {
	if cfg.Identity == "" || cfg.Namespace == "" {
		return nil, errors.New("controller: a replica needs an identity, and a namespace for its Lease")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Lease == "" {
		cfg.Lease = defaultLease
	}
	if cfg.Election == (Election{}) {
		cfg.Election = DefaultElection
	}
	if cfg.Writes == 0 {
		cfg.Writes = defaultWrites
	}
	cfg.Kube = rest.CopyConfig(cfg.Kube)
	cfg.Kube.QPS, cfg.Kube.Burst = float32(cfg.Writes), 2*cfg.Writes
	db := state.NewDB()
	c := &Controller{cfg: cfg, objs: kube.NewObjects(db), st: state.New(db), notes: newNotes(db), schemas: newSchemas(db), leads: make(chan struct{}), ready: make(chan struct{})}
	c.cluster = cluster.New(cfg.Kube, c.objs, cluster.Options{Log: cfg.Log, Statuses: true, Secrets: true, ConfigMaps: func(s *state.Snapshot) []string {
		keys, _ := gateway.UsedConfigMaps(c.objs, gateway.ControllerName, s)
		return keys
	}})
	c.reports = newReports(c.objs, c.st, cfg.Log)
	c.translator = gateway.New(c.objs, c.st, gateway.Config{
		TrustDomain: cfg.TrustDomain, ControllerName: gateway.ControllerName, Loaded: c.reports.first,
		Addresses: gateway.AddressesOfPools, APIServer: c.cluster.Address(), ExternalIPs: cfg.ExternalIPs, NamespaceShare: cfg.NamespaceShare, RequestExpressions: cfg.RequestExpressions,
	}, cfg.Log)
	if cfg.MapAddress != "" && cfg.FlowsAddress == "" {
		return nil, errors.New("--map-address needs --flows-address: agents are asked on the connections that they open for flows")
	}
	if cfg.CAAddress == "" {
		if cfg.FlowsAddress != "" {
			return nil, errors.New("--flows-address needs --ca-address: agents are authenticated there, and the API has a certificate of the CA")
		}
		return c, nil
	}
	known := tables{c.objs, c.st, cfg.GatewayNodes}
	c.secrets = gatewaysecrets.NewPublisher(gatewaysecrets.PublisherConfig{
		Objects: c.objs, Used: c.translator.UsedSecrets, Bundles: func(s *state.Snapshot) ([]string, int) {
			return gateway.UsedConfigMaps(c.objs, gateway.ControllerName, s)
		},
		Nodes: known.gatewayNodes, Loaded: c.st.Synced(), Log: cfg.Log,
	})
	streams := map[string]func(http.ResponseWriter, *http.Request, string){gatewaysecrets.Path: c.secrets.Serve}
	var err error
	var names []string
	if cfg.FlowsAddress != "" {
		if c.flows, err = newFlows(cfg, known); err != nil {
			return nil, err
		}
		streams[hubble.Path], names = c.flows.nodes.Serve, flowsNames(cfg.Namespace)
	}
	c.ca, err = ca.New(ca.Config{
		Kube: cfg.Kube, Namespace: cfg.Namespace, TrustDomain: cfg.TrustDomain, Address: cfg.CAAddress, TTL: cfg.SVIDTTL,
		Cluster: known, Loaded: c.st.Synced(), Log: cfg.Log, Streams: streams, Names: names,
	})
	return c, err
}

// Ready is closed when everything was read and translated once, without which a replica may not be elected, and its CA
// signs.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// awaitReady closes ready in time.
func (c *Controller) awaitReady(ctx context.Context) error {
	steps := []<-chan struct{}{c.st.Synced()}
	if c.ca != nil {
		steps = append(steps, c.ca.Ready())
	}
	for _, step := range steps {
		select {
		case <-ctx.Done():
			return nil
		case <-step:
		}
	}
	close(c.ready)
	return nil
}

// Run reads, translates and, while it holds the Lease, writes, until the context ends. Then it gives nil.
func (c *Controller) Run(ctx context.Context) error {
	leases, err := coordinationv1.NewForConfig(c.cfg.Kube)
	if err != nil {
		return fmt.Errorf("make a client for the Leases of nodes: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.cluster.Run(ctx) })
	g.Go(func() error { return c.reports.watch(ctx, leases.Leases(c.cfg.Namespace)) })
	g.Go(func() error { return c.reports.run(ctx, c.cluster.Loaded()) })
	g.Go(func() error { return c.translator.Run(ctx) })
	g.Go(func() error { return c.elect(ctx) })
	g.Go(func() error { return c.awaitReady(ctx) })
	if c.ca != nil {
		g.Go(func() error { return c.secrets.Run(ctx) })
		g.Go(func() error { return c.ca.Run(ctx) })
	}
	if c.flows != nil {
		g.Go(func() error { return c.flows.run(ctx, c.ready, c.ca.TLSConfig()) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// elect stands for election until the context ends.
func (c *Controller) elect(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.st.Synced():
	}
	// A client of its own: renewals must not wait behind writes.
	own := rest.CopyConfig(c.cfg.Kube)
	own.Timeout = c.cfg.Election.Renew / 2
	leases, err := coordinationv1.NewForConfig(own)
	if err != nil {
		return fmt.Errorf("make a client for the Lease of leader election: %w", err)
	}
	for ctx.Err() == nil {
		started, done := make(chan struct{}), make(chan struct{})
		e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: c.cfg.Namespace, Name: c.cfg.Lease},
				Client:     leases,
				LockConfig: resourcelock.ResourceLockConfig{Identity: c.cfg.Identity},
			},
			LeaseDuration: c.cfg.Election.Lease, RenewDeadline: c.cfg.Election.Renew, RetryPeriod: c.cfg.Election.Retry,
			// What the old leader still has on its way cannot overwrite what the new one wrote: writes carry a
			// resourceVersion.
			ReleaseOnCancel: true, Name: c.cfg.Lease,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					defer close(done)
					close(started)
					c.lead(ctx)
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
		e.Run(ctx)
		if ctx.Err() == nil {
			<-done // the Lease was lost, so it was held
			c.cfg.Log.Info("this replica is no longer the leader", "identity", c.cfg.Identity)
			continue
		}
		select {
		case <-started:
			<-done
		default:
		}
	}
	return nil
}

// lead writes until the context ends.
func (c *Controller) lead(ctx context.Context) {
	c.cfg.Log.Info("this replica is the leader", "identity", c.cfg.Identity)
	c.once.Do(func() { close(c.leads) })
	var wg sync.WaitGroup
	defer wg.Wait()
	if c.cfg.Defaults {
		wg.Go(func() { c.keepDefaults(ctx) })
	}
	if c.ca != nil {
		wg.Go(func() { c.ca.Publish(ctx) })
	}
	services := newServices(c.objs, c.st, c.notes, c.cluster, c.cfg.Log)
	wg.Go(func() { services.run(ctx) })
	notices := newNotices(c.objs, c.st, c.cluster, c.cfg.Log)
	wg.Go(func() { notices.run(ctx) })
	incidents := newIncidentEvents(c.objs, c.reports.incidents, c.cfg.Namespace, c.cluster, c.cfg.Log)
	wg.Go(func() { incidents.run(ctx) })
	wg.Go(func() { c.keepSchemas(ctx) })
	if c.flows != nil {
		refusals := newRefusalEvents(c.objs, c.cluster, c.cfg.Log)
		wg.Go(func() { refusals.run(ctx, c.flows.nodes) })
	}
	newWriter(c.objs, c.st, c.notes, c.schemas, c.cluster, c.cluster, c.cfg.Log).run(ctx)
}
