package gatewaysecrets

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// bundle is a ConfigMap with certificates of authorities. They are no secret: a node that may not serve Gateways has them too,
// for the routes of its pods.
type bundle struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	PEM       string `json:"pem"`
}

const (
	// maxBundle bounds a bundle, in bytes. It is gateway.MaxCABundle.
	maxBundle = 64 << 10
	// maxBundles bounds those that an agent takes. It is gateway.MaxConfigMaps.
	maxBundles = 2048
)

func bundleOf(m *corev1.ConfigMap) *bundle {
	return &bundle{Namespace: m.Namespace, Name: m.Name, PEM: m.Data[kube.CACertificateKey]}
}

// configMap returns the object as a reader of the API server would hold it.
func (b *bundle) configMap() *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: b.Name}}
	if b.PEM != "" {
		m.Data = map[string]string{kube.CACertificateKey: b.PEM}
	}
	return m
}

// addBundle takes a bundle in.
func (h *held) addBundle(b *bundle) error {
	if len(b.PEM) > maxBundle {
		return fmt.Errorf("ConfigMap %s/%s of %d bytes: at most %d are taken", b.Namespace, b.Name, len(b.PEM), maxBundle)
	}
	m := b.configMap()
	h.bundles[kube.Key(m)] = m
	if len(h.bundles) > maxBundles {
		return fmt.Errorf("more than %d ConfigMaps", maxBundles)
	}
	return nil
}

// bundleChanges returns what makes of the bundles of one map those of another.
func bundleChanges(from, to map[string]*corev1.ConfigMap) []message {
	return changes(from, to,
		func(key string) message { return message{DeleteBundle: key} },
		func(m *corev1.ConfigMap) message { return message{PutBundle: bundleOf(m)} })
}
