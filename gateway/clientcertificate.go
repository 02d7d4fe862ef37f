package gateway

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// maxClientCAs is the limit of the schema.
const maxClientCAs = 16

// clientValidation returns what a Gateway asks of the certificates of a port's clients; nil if it asks for none. What is
// set for the port takes the place of the default, also if it asks for nothing.
func clientValidation(gw *gwv1.Gateway, port gwv1.PortNumber) *gwv1.FrontendTLSValidation {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return nil
	}
	for _, p := range gw.Spec.TLS.Frontend.PerPort {
		if p.Port == port {
			return p.TLS.Validation
		}
	}
	return gw.Spec.TLS.Frontend.Default.Validation
}

// fallsBack reports whether a Gateway serves clients of some port without a valid certificate though it asks for one.
func fallsBack(gw *gwv1.Gateway) bool {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return false
	}
	insecure := func(v *gwv1.FrontendTLSValidation) bool { return v != nil && v.Mode == gwv1.AllowInsecureFallback }
	for _, p := range gw.Spec.TLS.Frontend.PerPort {
		if insecure(p.TLS.Validation) {
			return true
		}
	}
	return insecure(gw.Spec.TLS.Frontend.Default.Validation)
}

// readClients reads what the listener asks of its clients' certificates. A listener that asks for them and has none to check
// them by is not accepted: it serves nobody.
func (v *view) readClients(gw *gwv1.Gateway, l *listener) {
	val := clientValidation(gw, l.spec.Port)
	if val == nil || !l.terminates() {
		return
	}
	c := &model.ClientValidation{}
	switch val.Mode {
	case gwv1.AllowValidOnly, "":
	case gwv1.AllowInsecureFallback:
		c.Fallback = true
	default:
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf("spec.tls.frontend: mode %q of validation is not known", short(string(val.Mode))))
	}
	for i, r := range val.CACertificateRefs[:min(len(val.CACertificateRefs), maxClientCAs)] {
		reason, err := v.addClientCA(gw, c, r)
		if err != nil {
			l.refs.add(reason, fmt.Sprintf("spec.tls.frontend: caCertificateRefs[%d] for port %d: %v", i, l.spec.Port, err))
		}
	}
	if c.CA == "" {
		l.accepted.add(string(gwv1.ListenerReasonNoValidCACertificate), fmt.Sprintf(
			"spec.tls.frontend asks for certificates of the clients of port %d, and no reference to an authority is valid; the listener serves nobody", l.spec.Port))
	}
	l.clients = c
}

// addClientCA adds the certificates of a reference. With an error comes the reason for ResolvedRefs.
func (v *view) addClientCA(gw *gwv1.Gateway, c *model.ClientValidation, r gwv1.ObjectReference) (reason string, err error) {
	ns := orDefault(r.Namespace, gw.Namespace)
	key, err := localConfigMap(ns, gwv1.LocalObjectReference{Group: r.Group, Kind: r.Kind, Name: r.Name})
	if err != nil {
		return string(gwv1.ListenerReasonInvalidCACertificateKind), err
	}
	if !v.mayUseConfigMap(gw, ns, string(r.Name)) {
		return string(gwv1.ListenerReasonRefNotPermitted), fmt.Errorf(
			"ConfigMap %q is in another namespace, and no ReferenceGrant there allows Gateways of namespace %s to use it", short(key), gw.Namespace)
	}
	bundle, err := v.caBundle(key)
	if err == nil {
		c.CA, err = joinBundle(c.CA, bundle)
	}
	return string(gwv1.ListenerReasonInvalidCACertificateRef), err
}

func (v *view) mayUseConfigMap(gw *gwv1.Gateway, namespace, name string) bool {
	return gw.Namespace == namespace || v.granted(gwv1.GroupName, "Gateway", gw.Namespace, "ConfigMap", namespace, name)
}

// usedBy adds the ConfigMaps by which a Gateway of ours checks its clients' certificates.
func (u *usedConfigMaps) usedBy(v *view, gw *gwv1.Gateway) {
	if !v.ours(gw) {
		return
	}
	for _, key := range kube.GatewayConfigMaps(gw) {
		if ns, name := model.SplitKey(key); v.mayUseConfigMap(gw, ns, name) {
			u.add(gw.Namespace, key)
		}
	}
}
