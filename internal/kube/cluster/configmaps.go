package cluster

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// configMaps keeps the table of ConfigMaps equal to those that other objects refer to. Each is watched for itself: most
// ConfigMaps of a cluster are nobody's business here, and what they hold must not pass through this process.
type configMaps struct {
	c       *Cluster
	follows map[string]context.CancelFunc // by key
	wg      sync.WaitGroup

	mu     sync.Mutex
	unseen map[string]struct{} // of those that were wanted first, the ones that were not looked at yet
}

// run follows what is wanted until the context ends. It begins when the objects that refer to ConfigMaps were read.
func (m *configMaps) run(ctx context.Context) error {
	defer m.wg.Wait()
	select {
	case <-ctx.Done():
		return nil
	case <-m.c.kindsRead:
	}
	feed := m.c.objs.DB.Feed()
	defer feed.Close()
	deps := state.NewDeps[string]()
	const reader = "configmaps"
	for first := true; ; first = false {
		s := m.c.objs.DB.Track()
		keys := m.c.opts.ConfigMaps(s)
		deps.Set(reader, s.Reads())
		if first {
			m.unseen = map[string]struct{}{}
			for _, k := range keys {
				m.unseen[k] = struct{}{}
			}
			if len(keys) == 0 {
				m.c.markLoaded(configMap)
			}
		}
		m.set(ctx, keys)
		if !deps.Wait(ctx, feed) {
			return nil
		}
	}
}

// set begins to follow what is new, and forgets what is not wanted any more.
func (m *configMaps) set(ctx context.Context, keys []string) {
	wanted := make(map[string]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
		if m.follows[k] != nil {
			continue
		}
		following, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		m.follows[k] = func() { cancel(); <-done }
		m.wg.Go(func() {
			defer close(done)
			m.follow(following, k)
		})
	}
	for k, stop := range m.follows {
		if !wanted[k] {
			stop()
			delete(m.follows, k)
			m.put(k, nil)
			m.c.setProblem(configMap, k, "")
			m.seen(k)
		}
	}
}

// follow keeps one ConfigMap as it is until the context ends.
func (m *configMaps) follow(ctx context.Context, key string) {
	namespace, name := model.SplitKey(key)
	delay := retryBackoff
	for ctx.Err() == nil {
		client, err := m.c.clients.of(corev1.SchemeGroupVersion)
		if err == nil {
			one := cache.NewListWatchFromClient(client, "configmaps", namespace, fields.OneTermEqualSelector("metadata.name", name))
			backoff := retryBackoff
			r := cache.NewReflectorWithOptions(one, &corev1.ConfigMap{}, &configMapRow{m, key}, cache.ReflectorOptions{Name: "ConfigMap", Backoff: &backoff})
			err = r.ListAndWatchWithContext(ctx)
		}
		if err != nil && ctx.Err() == nil {
			m.c.setProblem(configMap, key, fmt.Sprintf("cannot be read; what was read before is kept: %v", err))
			if apierrors.IsForbidden(err) {
				m.seen(key) // it will not get better by waiting
			}
		}
		sleep(ctx, delay.Step())
	}
}

// put writes a row, or takes it away.
func (m *configMaps) put(key string, o *corev1.ConfigMap) {
	w := m.c.objs.DB.Write(m.c.objs.ConfigMaps)
	defer w.Commit()
	if o == nil {
		m.c.objs.ConfigMaps.Delete(w, key)
		return
	}
	m.c.objs.ConfigMaps.Put(w, o)
}

// seen notes that a ConfigMap was looked at.
func (m *configMaps) seen(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.unseen[key]; !ok {
		return
	}
	delete(m.unseen, key)
	if len(m.unseen) == 0 {
		m.c.markLoaded(configMap)
	}
}

// configMapRow is what a reflector writes to.
type configMapRow struct {
	of  *configMaps
	key string
}

func (r *configMapRow) Add(obj any) error {
	o, ok := obj.(*corev1.ConfigMap)
	if !ok || kube.Key(o) != r.key {
		return nil
	}
	r.of.put(r.key, trimConfigMap(o))
	r.of.c.setProblem(configMap, r.key, "")
	return nil
}

func (r *configMapRow) Update(obj any) error { return r.Add(obj) }
func (r *configMapRow) Resync() error        { return nil }

func (r *configMapRow) Delete(any) error {
	r.of.put(r.key, nil)
	return nil
}

func (r *configMapRow) Replace(objs []any, _ string) error {
	if len(objs) == 0 {
		r.of.put(r.key, nil)
		r.of.c.setProblem(configMap, r.key, "")
	}
	for _, o := range objs {
		if err := r.Add(o); err != nil {
			return err
		}
	}
	r.of.seen(r.key)
	return nil
}

// trimConfigMap keeps the certificates.
func trimConfigMap(o *corev1.ConfigMap) *corev1.ConfigMap {
	out := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name}}
	if text, ok := o.Data[kube.CACertificateKey]; ok {
		out.Data = map[string]string{kube.CACertificateKey: text}
	}
	return out
}
