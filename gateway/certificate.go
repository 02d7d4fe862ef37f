package gateway

import (
	"crypto/tls"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// keyPairs remembers which Secrets hold a valid pair, for parsing one costs more than all else about a listener, and the
// last valid one of those that are in use: what works goes on when its Secret goes bad or away.
type keyPairs map[string]*checkedSecret

type checkedSecret struct {
	secret *corev1.Secret // that was judged last
	err    string
	good   *corev1.Secret // the last that was valid; nil if none was
}

// certificate translates a Secret that a listener of ours uses: as it is, or as it was when it was last valid.
func certificate(v *view, key string) ([]output, bool) {
	secret, ok := v.objs.Secrets.Get(v.Snapshot, key)
	if ok {
		v.checkSecret(secret)
	}
	if !v.certificateUsed(key) {
		delete(v.keyPairs, key)
		return nil, ok
	}
	good := v.lastGood(key)
	if good == nil {
		return nil, ok
	}
	c := &model.Certificate{
		Namespace: good.Namespace, Name: good.Name,
		ChainPEM: good.Data[corev1.TLSCertKey], KeyPEM: good.Data[corev1.TLSPrivateKeyKey],
	}
	return []output{out(v.st.Certificates, key, c)}, true
}

// lastGood is the Secret as it was when it was last valid, while it is in use; nil if it never was.
func (v *view) lastGood(key string) *corev1.Secret {
	if c := v.keyPairs[key]; c != nil {
		return c.good
	}
	return nil
}

func (v *view) certificateUsed(key string) bool {
	namespace, name, _ := strings.Cut(key, "/")
	for gw := range v.objs.Gateways.By(v.Snapshot, kube.BySecret, key) {
		if v.ours(gw) && v.mayUse(gw, namespace, name) {
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
	c := v.keyPairs[key]
	if c == nil {
		c = &checkedSecret{}
		v.keyPairs[key] = c
	}
	if c.secret == secret {
		return c.err
	}
	c.secret, c.err = secret, ""
	chain, private := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	switch {
	case len(chain) == 0 || len(private) == 0:
		c.err = fmt.Sprintf("Secret %s lacks %s or %s", key, corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	default:
		if _, err := tls.X509KeyPair(chain, private); err != nil {
			c.err = fmt.Sprintf("Secret %s is not a certificate with its key: %v", key, err)
		}
	}
	if c.err == "" {
		c.good = secret
	}
	return c.err
}

// listenerCertificates gives the keys of a listener's certificates, those too that are served as they last were, and
// notes what is wrong.
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
		key := model.Key(ns, string(r.Name))
		problem := ""
		if secret, ok := v.objs.Secrets.Get(v.Snapshot, key); !ok {
			problem = fmt.Sprintf("there is no Secret %q", short(key))
		} else {
			problem = v.checkSecret(secret)
		}
		good := v.lastGood(key)
		if problem != "" && good != nil {
			problem += "; the certificate that it held before is served on"
		}
		if problem != "" {
			l.refs.add(invalid, problem)
		}
		if good != nil {
			certs = append(certs, key)
		}
	}
	return certs
}
