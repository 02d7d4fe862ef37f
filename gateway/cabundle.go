package gateway

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// MaxCABundle bounds the certificates by which a peer is checked, in bytes of PEM: those of a ConfigMap, and those of all
// ConfigMaps that a policy or a listener names together.
const MaxCABundle = 64 << 10

// Bounds of UsedConfigMaps: of all, and of those that the objects of one namespace refer to. Each is watched for itself.
const (
	MaxConfigMaps            = 2048
	maxConfigMapsOfNamespace = MaxConfigMaps / 8
)

// checkedBundle is what parseBundle said of a ConfigMap.
type checkedBundle struct {
	configMap *corev1.ConfigMap
	pem       string
	err       error
}

// caBundle returns the certificates in a ConfigMap as PEM. Its error is for a condition's message. Parsing costs the most, so
// the answer is kept.
func (v *view) caBundle(key string) (string, error) {
	m, ok := v.objs.ConfigMaps.Get(v.Snapshot, key)
	if !ok {
		v.memo.bundles.forget(key)
		return "", fmt.Errorf("there is no ConfigMap %q", short(key))
	}
	c := v.memo.bundles.get(key)
	if c.configMap != m {
		c = checkedBundle{configMap: m}
		if c.pem, c.err = parseBundle(m.Data[kube.CACertificateKey]); c.err != nil {
			c.err = fmt.Errorf("ConfigMap %s: %w", key, c.err)
		}
		v.memo.bundles.set(key, c)
	}
	return c.pem, c.err
}

// parseBundle reads the certificates of a PEM bundle and writes them anew, without what stands between them. So Envoy, which
// reads PEM differently, gets nothing that was not understood here.
func parseBundle(text string) (string, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return "", fmt.Errorf("it has no %s", kube.CACertificateKey)
	case len(text) > MaxCABundle:
		return "", fmt.Errorf("its %s is longer than %d KiB", kube.CACertificateKey, MaxCABundle>>10)
	}
	var out strings.Builder
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("its %s holds a block %q; certificates alone belong there", kube.CACertificateKey, short(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("its %s holds a certificate that cannot be read: %w", kube.CACertificateKey, err)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	if out.Len() == 0 {
		return "", fmt.Errorf("its %s holds no certificate in PEM", kube.CACertificateKey)
	}
	return out.String(), nil
}

// errBundlesTooLong is about the certificates of several ConfigMaps.
var errBundlesTooLong = errors.New("the certificates of all references together are longer than " + fmt.Sprint(MaxCABundle>>10) + " KiB")

// joinBundle adds certificates to others. What is there already is not added again.
func joinBundle(all, more string) (string, error) {
	switch {
	case strings.Contains(all, more):
		return all, nil
	case len(all)+len(more) > MaxCABundle:
		return all, errBundlesTooLong
	}
	return all + more, nil
}

// UsedConfigMaps returns the keys of the ConfigMaps with certificates that BackendTLSPolicies and the Gateways of a controller's
// classes refer to, there or not. Younger objects that are past a bound are left out; left counts their references. It reads
// objects alone, and is safe for concurrent use.
func UsedConfigMaps(objs *kube.Objects, controller string, s *state.Snapshot) (keys []string, left int) {
	var all []metav1.Object
	for p := range objs.BackendTLSPolicies.All(s) {
		all = append(all, p)
	}
	for gw := range objs.Gateways.All(s) {
		all = append(all, gw)
	}
	slices.SortFunc(all, compareAge)
	v := &view{Snapshot: s, tables: &tables{objs: objs}, cfg: &Config{ControllerName: controller}}
	u := usedConfigMaps{keys: map[string]bool{}, of: map[string]int{}}
	for _, o := range all {
		switch o := o.(type) {
		case *gwv1.Gateway:
			u.usedBy(v, o)
		case *gwv1.BackendTLSPolicy:
			for _, key := range kube.PolicyConfigMaps(o) {
				u.add(o.Namespace, key)
			}
		}
	}
	return slices.Sorted(maps.Keys(u.keys)), u.left
}

type usedConfigMaps struct {
	keys map[string]bool
	of   map[string]int // by the namespace of the object that refers to them
	left int
}

func (u *usedConfigMaps) add(namespace, key string) {
	switch {
	case u.keys[key]:
	case u.of[namespace] == maxConfigMapsOfNamespace || len(u.keys) == MaxConfigMaps:
		u.left++
	default:
		u.keys[key] = true
		u.of[namespace]++
	}
}

// localConfigMap returns the key of the ConfigMap that a reference names, or the kind that is not supported.
func localConfigMap(namespace string, r gwv1.LocalObjectReference) (key string, err error) {
	if r.Group != "" || r.Kind != "ConfigMap" {
		return "", fmt.Errorf("kind %q of group %q is not supported for certificates; use a ConfigMap", short(string(r.Kind)), short(string(r.Group)))
	}
	return model.Key(namespace, string(r.Name)), nil
}
