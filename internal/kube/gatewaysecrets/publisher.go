package gatewaysecrets

import (
	"context"
	"log/slog"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// PublisherConfig of a Publisher.
type PublisherConfig struct {
	Objects *kube.Objects
	// Used returns the keys of the Secrets that agents need, and how many more were left out.
	Used func(*state.Snapshot) (keys []string, left int)
	// Bundles returns the same of the ConfigMaps with certificates of authorities.
	Bundles func(*state.Snapshot) (keys []string, left int)
	// Nodes returns the nodes that may serve Gateways; nil for all.
	Nodes func(*state.Snapshot) map[string]bool
	// Loaded is closed when the objects were read and translated once.
	Loaded <-chan struct{}
	// Times are DefaultTimes if zero.
	Times Times
	Log   *slog.Logger
}

// Publisher follows which Secrets agents need, and serves them.
type Publisher struct {
	cfg   PublisherConfig
	ended chan struct{} // closed when Run returns

	mu      sync.Mutex
	now     *published
	changed chan struct{}        // closed, and replaced, when now is another
	streams map[string][]*stream // by node, the oldest first
}

// published is what agents are to have. It is not changed.
type published struct {
	secrets map[string]*corev1.Secret
	bundles map[string]*corev1.ConfigMap
	nodes   map[string]bool // nil for all
}

func (p *published) serves(node string) bool { return p.nodes == nil || p.nodes[node] }

// NewPublisher makes a Publisher. Streams wait for Run.
func NewPublisher(cfg PublisherConfig) *Publisher {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes
	}
	return &Publisher{cfg: cfg, ended: make(chan struct{}), changed: make(chan struct{}), streams: map[string][]*stream{}}
}

// Run follows the objects until ctx ends. The streams end then.
func (p *Publisher) Run(ctx context.Context) error {
	defer close(p.ended)
	select {
	case <-ctx.Done():
		return nil
	case <-p.cfg.Loaded:
	}
	feed := p.cfg.Objects.DB.Feed()
	defer feed.Close()
	deps := state.NewDeps[string]()
	const reader = "secrets"
	for left := [2]int{}; ; {
		s := p.cfg.Objects.DB.Track()
		left = p.publish(s, left)
		deps.Set(reader, s.Reads())
		if !deps.Wait(ctx, feed) {
			return nil
		}
	}
}

// publish reads what agents are to have, and wakes the streams if it changed. It returns how many Secrets and ConfigMaps were
// left out; before is that of the last time.
func (p *Publisher) publish(s *state.Snapshot, before [2]int) (left [2]int) {
	keys, n := p.cfg.Used(s)
	if left[0] = n; n > 0 && n != before[0] {
		p.cfg.Log.Error("Gateways refer to more Secrets than are sent to nodes; the youngest Gateways lack certificates", "leftOut", n)
	}
	next := &published{bundles: map[string]*corev1.ConfigMap{}, nodes: p.cfg.Nodes(s)}
	bundles, n := p.cfg.Bundles(s)
	if left[1] = n; n > 0 && n != before[1] {
		p.cfg.Log.Error("Gateways and BackendTLSPolicies refer to more ConfigMaps than are sent to nodes; the youngest lack certificates", "leftOut", n)
	}
	for _, key := range bundles {
		if o, ok := p.cfg.Objects.ConfigMaps.Get(s, key); ok && len(o.Data[kube.CACertificateKey]) <= maxBundle {
			next.bundles[key] = o
		}
	}
	var found []*corev1.Secret
	for _, key := range keys {
		if o, ok := p.cfg.Objects.Secrets.Get(s, key); ok && size(o) <= maxSecret {
			found = append(found, o)
		}
	}
	next.secrets = keyed(found)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil && maps.Equal(p.now.secrets, next.secrets) && maps.Equal(p.now.bundles, next.bundles) && (p.now.nodes == nil) == (next.nodes == nil) && maps.Equal(p.now.nodes, next.nodes) {
		return left
	}
	p.now = next
	close(p.changed)
	p.changed = make(chan struct{})
	return left
}

func size(s *corev1.Secret) int {
	return len(s.Data[corev1.TLSCertKey]) + len(s.Data[corev1.TLSPrivateKeyKey])
}

// look returns what is published now, nil before the first time, and what is closed when that changes.
func (p *Publisher) look() (*published, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}
