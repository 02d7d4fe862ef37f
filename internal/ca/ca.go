package ca

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/mtls"
)

// Names of the objects, all in the mesh's namespace.
const (
	SecretName    = "weft-ca"
	ConfigMapName = "weft-trust-bundle"
	// BundleKey is the ConfigMap's.
	BundleKey = "ca.crt"
	// AgentAccount is the ServiceAccount that may ask.
	AgentAccount = "weft-agent"
	// Account is the ServiceAccount of the controller, whose identity the service shows.
	Account = "weft-controller"
)

// Config of the CA.
type Config struct {
	Kube        *rest.Config
	Namespace   string
	TrustDomain string
	// Address is host:port of the service.
	Address string
	// TTL of SVIDs: mtls.DefaultTTL if zero, at least mtls.MinTTL and at most MaxTTL.
	TTL time.Duration
	// Cluster tells who runs where, once Loaded is closed.
	Cluster Cluster
	Loaded  <-chan struct{}
	// Streams serve what else agents follow, by path. They are called with the node of the agent, which the CA has
	// authenticated as it does for certificates.
	Streams map[string]func(w http.ResponseWriter, r *http.Request, node string)
	// Names are DNS names of what else this replica serves by TLSConfig.
	Names []string
	Log   *slog.Logger
}

const (
	// refresh is how often the Secret is read, retry how often when that failed.
	refresh, retry = 20 * time.Second, 2 * time.Second
	// requestTimeout bounds a request to the API server.
	requestTimeout = 5 * time.Second
)

// CA is one replica.
type CA struct {
	cfg       Config
	roots     *rootSecret
	maps      configMaps
	bundles   *trustBundles
	reviews   reviewer
	authority *authority
	ready     chan struct{}
	once      sync.Once
	published chan struct{} // the leader is to look at the bundle
}

// New makes a CA. Nothing is asked of the API server yet.
func New(cfg Config) (*CA, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.TTL == 0 {
		cfg.TTL = mtls.DefaultTTL
	}
	if cfg.TTL < mtls.MinTTL || cfg.TTL > MaxTTL {
		return nil, fmt.Errorf("CA: SVIDs that live %v: at least %v and at most %v are possible", cfg.TTL, mtls.MinTTL, MaxTTL)
	}
	kube := rest.CopyConfig(cfg.Kube)
	kube.QPS = -1 // what asks is bounded (see maxRequests), and must not wait behind the controller's writes
	kube.Timeout = requestTimeout
	core, err := corev1client.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("CA: client of the API server: %w", err)
	}
	auth, err := authenticationv1client.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("CA: client of the API server: %w", err)
	}
	bundles, err := newTrustBundles(kube, cfg.TrustDomain, cfg.Namespace)
	if err != nil {
		return nil, fmt.Errorf("CA: client of the API server: %w", err)
	}
	a, err := newAuthority(cfg.TrustDomain, cfg.Namespace, cfg.TTL)
	if err != nil {
		return nil, err
	}
	a.names = cfg.Names
	maps := core.ConfigMaps(cfg.Namespace)
	return &CA{
		cfg: cfg, authority: a, bundles: bundles, reviews: auth.TokenReviews(), maps: maps,
		roots: &rootSecret{
			api: core.Secrets(cfg.Namespace), seal: &seal{api: maps, namespace: cfg.Namespace},
			namespace: cfg.Namespace, td: cfg.TrustDomain, log: cfg.Log,
		},
		ready: make(chan struct{}), published: make(chan struct{}, 1),
	}, nil
}

// Ready is closed when the CA signs.
func (c *CA) Ready() <-chan struct{} { return c.ready }

// TLSConfig returns that of a server with the CA's own certificate, which is for Config.Names too. It is good for as long as
// the CA runs.
func (c *CA) TLSConfig() *tls.Config { return c.authority.tlsConfig() }

// Run serves until the context ends, and then gives nil.
func (c *CA) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", c.cfg.Address)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	defer l.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.keep(ctx) })
	g.Go(func() error {
		for _, step := range []<-chan struct{}{c.cfg.Loaded, c.ready} {
			select {
			case <-ctx.Done():
				return nil
			case <-step:
			}
		}
		c.cfg.Log.Info("the CA signs", "address", l.Addr().String(), "trustDomain", c.cfg.TrustDomain)
		return newServer(c.cfg, c.authority, c.reviews).serve(ctx, l)
	})
	return g.Wait()
}

// keep follows the Secret until the context ends.
func (c *CA) keep(ctx context.Context) error {
	failed := ""
	for {
		wait := refresh
		if err := c.refresh(ctx); err != nil {
			wait = retry
			if ctx.Err() == nil && err.Error() != failed {
				failed = err.Error()
				c.cfg.Log.Error("the CA's roots cannot be read or kept; it goes on with those that it has", "secret", c.cfg.Namespace+"/"+SecretName, "error", err)
			}
		} else {
			failed = ""
			c.once.Do(func() { close(c.ready) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refresh brings the authority to what the Secret holds.
func (c *CA) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*requestTimeout)
	defer cancel()
	roots, err := c.roots.refresh(ctx, time.Now())
	if err != nil {
		return err
	}
	published := ""
	if len(roots) > 1 {
		// Without it no root could be told from one that nobody trusts yet.
		m, err := c.maps.Get(ctx, ConfigMapName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("the published trust bundle: %w", err)
		}
		published = m.Data[BundleKey]
	}
	changed, err := c.authority.update(roots, published, time.Now())
	if changed {
		select {
		case c.published <- struct{}{}:
		default:
		}
	}
	return err
}

// errNotReady is what handshakes end with before there is a certificate.
var errNotReady = errors.New("the CA has no roots yet")
