package gateway

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// MaxCertificate bounds a chain of certificates and its key together, in bytes of PEM.
const MaxCertificate = 64 << 10

var certificateUnits = unitKind{
	name: "certificate", stage: stageRoutes, compute: certificate,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Secret] { return o.Secrets }),
}

// certificate translates a Secret that a listener or a Gateway of ours uses: as it is, or if it went bad or away, as it was when it was
// last valid, so that what works goes on.
func certificate(v *view, key string) ([]output, bool) {
	secret, there := v.objs.Secrets.Get(v.Snapshot, key)
	if !v.certificateUsed(key) || !v.st.ServesGateways(v.Snapshot) {
		v.memo.secrets.forget(key)
		return nil, there
	}
	var c *model.Certificate
	if there && v.checkSecret(secret) == "" {
		c = &model.Certificate{
			Namespace: secret.Namespace, Name: secret.Name,
			ChainPEM: secret.Data[corev1.TLSCertKey], KeyPEM: secret.Data[corev1.TLSPrivateKeyKey],
		}
	} else if c, _ = v.st.Certificates.Get(v.last, key); c == nil {
		return nil, there
	}
	return []output{out(v.st.Certificates, key, c)}, true
}

func (v *view) certificateUsed(key string) bool {
	namespace, name, _ := strings.Cut(key, "/")
	for gw := range v.objs.Gateways.By(v.Snapshot, kube.BySecret, key) {
		if v.ours(gw) && v.mayUse(gatewayRef(gw), namespace, name) {
			return true
		}
	}
	for set := range v.objs.ListenerSets.By(v.Snapshot, kube.BySecret, key) {
		ref := listenerSetVersion(set).ObjectRef
		if p := v.listenersOf(ref); p != nil && p.refused.ok() && v.mayUse(ref, namespace, name) {
			return true
		}
	}
	return false
}

// Bounds of UsedSecrets: of all Gateways, and of those of one namespace.
const (
	MaxSecrets            = 8192
	maxSecretsOfNamespace = MaxSecrets / 4
)

// UsedSecrets returns the keys of the Secrets that the listeners of the mesh's Gateways and of their ListenerSets use, there or
// not. A Gateway without an address does not count, nor does a Secret that the Gateway or the ListenerSet may not refer to.
// ListenerSets come after all Gateways; younger objects that are past a bound are left out, and left counts their references. It is safe for concurrent use.
func (t *Translator) UsedSecrets(s *state.Snapshot) (keys []string, left int) {
	v := &view{Snapshot: s, tables: t.tables, cfg: &t.cfg}
	var gateways []*gwv1.Gateway
	for gw := range t.objs.Gateways.All(s) {
		if as, ok := t.assignments.Get(s, kube.Key(gw)); ok && len(as.addresses) > 0 && v.ours(gw) {
			gateways = append(gateways, gw)
		}
	}
	slices.SortFunc(gateways, func(a, b *gwv1.Gateway) int { return compareAge(a, b) })
	used, of := map[string]bool{}, map[string]int{} // of a namespace
	use := func(ref model.ObjectRef, keys []string) {
		for _, key := range keys {
			namespace, name, _ := strings.Cut(key, "/")
			if used[key] || !v.mayUse(ref, namespace, name) {
				continue
			}
			if of[ref.Namespace] == maxSecretsOfNamespace || len(used) == MaxSecrets {
				left++
				continue
			}
			used[key] = true
			of[ref.Namespace]++
		}
	}
	var sets []*parentListeners
	for _, gw := range gateways {
		use(gatewayRef(gw), kube.GatewaySecrets(gw))
		for p := range t.merged.By(s, byGateway, kube.Key(gw)) {
			if p.parent.Kind == "ListenerSet" {
				sets = append(sets, p)
			}
		}
	}
	slices.SortFunc(sets, comparePrecedence)
	for _, p := range sets {
		use(p.parent.ObjectRef, secretsOf(p))
	}
	return slices.Sorted(maps.Keys(used)), left
}

// RefersToCertificates reports whether one of the mesh's Gateways refers to a Secret or a ConfigMap, or a BackendTLSPolicy to a
// ConfigMap. It is safe for concurrent use, and does not depend on what was translated.
func (t *Translator) RefersToCertificates(s *state.Snapshot) bool {
	v := &view{Snapshot: s, tables: t.tables, cfg: &t.cfg}
	for p := range t.objs.BackendTLSPolicies.All(s) {
		if len(kube.PolicyConfigMaps(p)) > 0 {
			return true
		}
	}
	for gw := range t.objs.Gateways.All(s) {
		if v.ours(gw) && len(kube.GatewaySecrets(gw))+len(kube.GatewayConfigMaps(gw)) > 0 {
			return true
		}
	}
	for set := range t.objs.ListenerSets.All(s) {
		if len(kube.ListenerSetSecrets(set)) == 0 {
			continue
		}
		if gw := v.gatewayOf(set); gw != nil && v.allowsListenerSets(gw, set.Namespace) {
			return true
		}
	}
	return false
}

// mayUse reports whether a Gateway or a ListenerSet may refer to a Secret. What is granted to one is not to the other.
func (v *view) mayUse(of model.ObjectRef, namespace, secret string) bool {
	return of.Namespace == namespace || v.granted(gwv1.GroupName, of.Kind, of.Namespace, "Secret", namespace, secret)
}

// checkedSecret is what checkSecret said of a Secret.
type checkedSecret struct {
	secret *corev1.Secret
	err    string
}

// checkSecret says why a Secret is no certificate; "" is good. It never quotes what is in it. Parsing a certificate costs
// more than all else about a listener, so the answer is kept.
func (v *view) checkSecret(secret *corev1.Secret) string {
	key := kube.Key(secret)
	if c := v.memo.secrets.get(key); c.secret == secret {
		return c.err
	}
	c := checkedSecret{secret: secret}
	chain, private := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	switch {
	case len(chain)+len(private) > MaxCertificate:
		c.err = fmt.Sprintf("Secret %s has more than %d KiB of certificates and key", key, MaxCertificate>>10)
	case len(chain) == 0 || len(private) == 0:
		c.err = fmt.Sprintf("Secret %s has no %s or no %s", key, corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	default:
		if _, err := tls.X509KeyPair(chain, private); err != nil {
			c.err = fmt.Sprintf("Secret %s is not a certificate with its key: %v", key, err)
		}
	}
	v.memo.secrets.set(key, c)
	return c.err
}

// listenerCertificates returns the keys of a listener's certificates, those too that are served as they last were, and
// notes what is wrong.
func (v *view) listenerCertificates(l *listener) []string {
	const invalid = string(gwv1.ListenerReasonInvalidCertificateRef)
	if l.spec.TLS == nil || len(l.spec.TLS.CertificateRefs) == 0 {
		l.refs.add(invalid, fmt.Sprintf("a listener of protocol %s needs tls.certificateRefs", l.spec.Protocol))
		return nil
	}
	var certs []string
	for i := range l.spec.TLS.CertificateRefs {
		if key := v.certificateOf(l.parent.ObjectRef, &l.spec.TLS.CertificateRefs[i], invalid, &l.refs); key != "" {
			certs = append(certs, key)
		}
	}
	return certs
}

// backendCertificate returns the key of the certificate that a Gateway shows to backends, or "", and notes what is wrong.
func (v *view) backendCertificate(gw *gwv1.Gateway, refs *problems) string {
	r := kube.BackendCertificateRef(gw)
	if r == nil {
		return ""
	}
	return v.certificateOf(gatewayRef(gw), r, string(gwv1.GatewayReasonInvalidClientCertificateRef), refs)
}

// certificateOf returns the key of the certificate that an object refers to, also if it is served as it last was, and "" if it
// is not served. It notes what is wrong, with the reason invalid if that is the Secret.
func (v *view) certificateOf(of model.ObjectRef, r *gwv1.SecretObjectReference, invalid string, refs *problems) string {
	if kind, group := orDefault(r.Kind, "Secret"), orDefault(r.Group, ""); kind != "Secret" || group != "" {
		refs.add(invalid, fmt.Sprintf("kind %q of group %q is not supported as a certificate", short(kind), short(group)))
		return ""
	}
	ns := orDefault(r.Namespace, of.Namespace)
	key := model.Key(ns, string(r.Name))
	if !v.mayUse(of, ns, string(r.Name)) {
		refs.add(string(gwv1.ListenerReasonRefNotPermitted), fmt.Sprintf(
			"Secret %q is in another namespace, and no ReferenceGrant there allows %ss of namespace %s to use it", short(key), of.Kind, of.Namespace))
		return ""
	}
	problem := ""
	if secret, ok := v.objs.Secrets.Get(v.Snapshot, key); !ok {
		problem = fmt.Sprintf("there is no Secret %q", short(key))
	} else {
		problem = v.checkSecret(secret)
	}
	if problem == "" {
		problem = v.rejected(model.ObjectRef{Kind: "Secret", Namespace: ns, Name: string(r.Name)}, 0)
	}
	_, served := v.st.Certificates.Get(v.Snapshot, key)
	if problem != "" && served {
		problem += "; the certificate that it held before is still served"
	}
	if problem != "" {
		refs.add(invalid, problem)
	}
	if !served {
		return ""
	}
	return key
}
