package gateway

import (
	"crypto/tls"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// keyPairs remembers which Secrets hold a valid pair, for parsing one costs more than all else about a listener. The
// answer follows from the Secret alone.
type keyPairs map[string]checkedSecret

type checkedSecret struct {
	secret *corev1.Secret
	err    string
}

// certificate translates a Secret that a listener of ours uses.
func certificate(v *view, key string) ([]output, bool) {
	secret, ok := v.objs.Secrets.Get(v.Snapshot, key)
	if !ok {
		delete(v.keyPairs, key)
		return nil, false
	}
	if !v.certificateUsed(secret) || v.checkSecret(secret) != "" {
		return nil, true
	}
	c := &model.Certificate{
		Namespace: secret.Namespace, Name: secret.Name,
		ChainPEM: secret.Data[corev1.TLSCertKey], KeyPEM: secret.Data[corev1.TLSPrivateKeyKey],
	}
	return []output{out(v.st.Certificates, key, c)}, true
}

func (v *view) certificateUsed(secret *corev1.Secret) bool {
	for gw := range v.objs.Gateways.By(v.Snapshot, kube.BySecret, kube.Key(secret)) {
		if v.ours(gw) && v.mayUse(gw, secret.Namespace, secret.Name) {
			return true
		}
	}
	return false
}

func (v *view) mayUse(gw *gwv1.Gateway, namespace, secret string) bool {
	return gw.Namespace == namespace || v.granted("Gateway", gw.Namespace, "Secret", namespace, secret)
}

// checkSecret says why a Secret is no certificate; "" is good. It never quotes what is in it.
func (v *view) checkSecret(secret *corev1.Secret) string {
	key := kube.Key(secret)
	if c, ok := v.keyPairs[key]; ok && c.secret == secret {
		return c.err
	}
	c := checkedSecret{secret: secret}
	chain, private := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	switch {
	case len(chain) == 0 || len(private) == 0:
		c.err = fmt.Sprintf("Secret %s lacks %s or %s", key, corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	default:
		if _, err := tls.X509KeyPair(chain, private); err != nil {
			c.err = fmt.Sprintf("Secret %s is not a certificate with its key: %v", key, err)
		}
	}
	v.keyPairs[key] = c
	return c.err
}

// listenerCertificates gives the keys of a listener's valid certificates and notes what is wrong with the others.
func (v *view) listenerCertificates(gw *gwv1.Gateway, l *listener) []string {
	const invalid = string(gwv1.ListenerReasonInvalidCertificateRef)
	if l.spec.TLS == nil || len(l.spec.TLS.CertificateRefs) == 0 {
		l.refs.add(invalid, "a listener of protocol HTTPS needs tls.certificateRefs")
		return nil
	}
	var certs []string
	for _, r := range l.spec.TLS.CertificateRefs {
		if kind, group := orDefault(r.Kind, "Secret"), orDefault(r.Group, ""); kind != "Secret" || group != "" {
			l.refs.add(invalid, fmt.Sprintf("kind %q of group %q is not supported as a certificate", short(kind), short(group)))
			continue
		}
		ns := orDefault(r.Namespace, gw.Namespace)
		if !v.mayUse(gw, ns, string(r.Name)) {
			l.refs.add(string(gwv1.ListenerReasonRefNotPermitted), fmt.Sprintf(
				"Secret %q is in another namespace, and no ReferenceGrant there allows Gateways of namespace %s to use it",
				short(model.Key(ns, string(r.Name))), gw.Namespace))
			continue
		}
		secret, ok := v.objs.Secrets.Get(v.Snapshot, model.Key(ns, string(r.Name)))
		if !ok {
			l.refs.add(invalid, fmt.Sprintf("there is no Secret %q", short(model.Key(ns, string(r.Name)))))
			continue
		}
		if err := v.checkSecret(secret); err != "" {
			l.refs.add(invalid, err)
			continue
		}
		certs = append(certs, kube.Key(secret))
	}
	return certs
}
