package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// terminates reports whether TLS ends at the listener, which needs a certificate for that.
func (l *listener) terminates() bool {
	return l.https() || l.sni() && (l.spec.TLS == nil || orDefault(l.spec.TLS.Mode, string(gwv1.TLSModeTerminate)) == string(gwv1.TLSModeTerminate))
}

// refuseTLS is for protocols without TLS.
func (l *listener) refuseTLS() {
	if l.spec.TLS != nil {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf("a listener of protocol %s cannot have tls", l.spec.Protocol))
	}
}

// passthrough reports whether the listener forwards TLS as it is. Who the clients are is the backend's to ask then.
func (l *listener) passthrough() bool {
	return l.streams() && l.spec.TLS != nil && orDefault(l.spec.TLS.Mode, "") == string(gwv1.TLSModePassthrough)
}

// checkTLS refuses what a listener asks of its TLS connections and is not built: who asked for it must not be
// served without.
func (l *listener) checkTLS() {
	if l.spec.TLS != nil && l.spec.TLS.Mode != nil && *l.spec.TLS.Mode != gwv1.TLSModeTerminate && !l.passthrough() {
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf("tls mode %q is not supported with protocol %s", short(string(*l.spec.TLS.Mode)), l.spec.Protocol))
	}
	if l.spec.TLS != nil && len(l.spec.TLS.Options) > 0 {
		var names []string
		for _, k := range slices.Sorted(maps.Keys(l.spec.TLS.Options)) {
			names = append(names, short(string(k)))
		}
		l.accepted.add(string(gwv1.ListenerReasonUnsupportedValue), "tls.options are not supported: "+strings.Join(names, ", "))
	}
}
