package cluster

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Options are the choices of New; the zero value is that of an agent.
type Options struct {
	// Log defaults to slog.Default.
	Log *slog.Logger
	// Statuses keeps status and resourceVersion of the kinds that WritesStatus names, for a controller that writes them.
	Statuses bool
	// NodeLabels are the keys of the labels of Nodes that are kept; with Statuses all are.
	NodeLabels []string
	// Secrets reads the Secrets of type kubernetes.io/tls. Without it their table is somebody else's to write: an agent gets
	// from the controller those that it needs.
	Secrets bool
	// ConfigMaps returns the keys of the ConfigMaps whose certificates are read. nil: their table is somebody else's to write.
	ConfigMaps func(*state.Snapshot) []string
}

// Cluster keeps the object tables equal to what an API server holds.
//
//   - Each kind is listed and watched for itself. Objects are written straight into their table; there is no other cache.
//   - What nobody reads is dropped before it is stored (trim). Kinds that nobody reads are not asked for.
//   - An API server that does not answer changes nothing: objects are kept. Once it answers, what went meanwhile goes.
//   - A kind whose CRD is not installed has no objects; it is taken up when the CRD comes. Whether it is there is read
//     from the CRD itself: an API server that starts answers 404 for kinds that it is about to serve.
//   - An object that is not understood is a Problem, and the last good version is kept. Where there is none, what would
//     close something stands in for it, closed.
//   - Annotations that say where a pod runs (AnnotationNetNS and others) are dropped: whoever may create pods could claim
//     another pod's network namespace by them.
type Cluster struct {
	log     *slog.Logger
	opts    Options
	objs    *kube.Objects
	host    string
	clients *clients
	sources []*source

	loaded chan struct{}
	// kindsRead is closed when all kinds but ConfigMaps were read.
	kindsRead chan struct{}
	mu        sync.Mutex
	waiting   map[schema.GroupKind]struct{} // kinds that were not read yet
}

// unread are the kinds that have a table but no source: ConfigMaps are read one by one. xmesh is read by who writes its status.
var (
	configMap = schema.GroupKind{Kind: "ConfigMap"}
	unread    = []schema.GroupKind{{Kind: "ServiceAccount"}, configMap}
	secret    = schema.GroupKind{Kind: "Secret"}
	xmesh     = schema.GroupKind{Group: gwxv1.GroupName, Kind: "XMesh"}
)

// New makes a reader of an API server. Nothing is asked yet.
func New(cfg *rest.Config, objs *kube.Objects, opts Options) *Cluster {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	c := &Cluster{
		log: opts.Log, opts: opts, objs: objs, host: cfg.Host, clients: newClients(cfg),
		loaded: make(chan struct{}), kindsRead: make(chan struct{}), waiting: map[schema.GroupKind]struct{}{},
	}
	if opts.ConfigMaps != nil {
		c.waiting[configMap] = struct{}{}
	}
	for _, k := range objs.Kinds() {
		if gk := k.GVK.GroupKind(); !slices.Contains(unread, gk) && (gk != xmesh || opts.Statuses) && (gk != secret || opts.Secrets) {
			c.waiting[gk] = struct{}{}
			c.sources = append(c.sources, newSource(c, k))
		}
	}
	return c
}

// Run follows the API server until the context ends, and then gives nil.
func (c *Cluster) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range c.sources {
		g.Go(func() error { return s.run(ctx) })
	}
	if c.opts.ConfigMaps != nil {
		m := &configMaps{c: c, follows: map[string]context.CancelFunc{}}
		g.Go(func() error { return m.run(ctx) })
	}
	return g.Wait()
}

// Loaded is closed when every kind was read once, or is known not to be installed.
func (c *Cluster) Loaded() <-chan struct{} { return c.loaded }

// Installed reports whether the API server served a kind when it was last asked.
func (c *Cluster) Installed(gk schema.GroupKind) bool {
	s, err := c.source(gk)
	return err == nil && s.there.Load()
}

// Reads lists what is asked of the API server, which a role must allow.
func (c *Cluster) Reads() []schema.GroupResource {
	out := make([]schema.GroupResource, len(c.sources))
	for i, s := range c.sources {
		out[i] = schema.GroupResource{Group: s.gk().Group, Resource: kube.Resource(s.kind.GVK)}
	}
	if c.opts.ConfigMaps != nil {
		out = append(out, schema.GroupResource{Resource: "configmaps"})
	}
	return out
}

// Host is the API server's address.
func (c *Cluster) Host() string { return c.host }

// Address is the API server's, if its host is not a name; else it is not valid.
func (c *Cluster) Address() netip.AddrPort {
	host, _, err := rest.DefaultServerURL(c.host, "", schema.GroupVersion{}, true)
	if err != nil {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddr(host.Hostname())
	if err != nil {
		return netip.AddrPort{}
	}
	port := uint64(443)
	if host.Scheme == "http" {
		port = 80
	}
	if text := host.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			return netip.AddrPort{}
		}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// fileOfProblems is the File of problems of objects of an API server.
const fileOfProblems = "kubernetes"

// setProblem notes what is wrong with an object, or with a whole kind (key ""); reason "" means nothing is. It may be
// called while a transaction of the kind's table is open. Only one goroutine calls it for a kind.
func (c *Cluster) setProblem(gk schema.GroupKind, key, reason string) {
	p := &kube.Problem{File: fileOfProblems, Object: model.ObjectRef{Group: gk.Group, Kind: gk.Kind}, Reason: reason}
	p.Object.Namespace, p.Object.Name = model.SplitKey(key)
	snap, before := c.objs.DB.Snapshot(), ""
	if reason == "" && c.objs.Problems.Len(snap) == 0 {
		return
	}
	w := c.objs.DB.Write(c.objs.Problems)
	for _, old := range c.objs.ProblemsOf(snap, p.Object) {
		before = old.Reason
		if before != reason {
			c.objs.Problems.Delete(w, old.Key())
		}
	}
	if reason != "" {
		c.objs.Problems.Put(w, p)
	}
	w.Commit()
	switch reason {
	case before:
	case "":
		c.log.Info("a problem with objects of the API server is solved", "kind", gk.String(), "object", key)
	default:
		c.log.Warn("failed to read objects from the API server", "kind", gk.String(), "object", key, "reason", reason)
	}
}

// markLoaded notes that a kind's objects are in their table.
func (c *Cluster) markLoaded(gk schema.GroupKind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.waiting[gk]; !ok {
		return
	}
	delete(c.waiting, gk)
	_, configMaps := c.waiting[configMap]
	switch {
	case len(c.waiting) == 0:
		close(c.loaded)
	case len(c.waiting) == 1 && configMaps:
		close(c.kindsRead)
	}
}

// sleep waits, and reports whether the context is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
