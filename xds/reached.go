package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// A connection inside Envoy to an internal listener is open at once, long before the tunnel that carries it on is. A request was
// sent then, as far as its route knows, and one that must not be repeated would fail with its tunnel. So the two ends of such a
// connection speak TLS. The listener's tcp_proxy reads nothing before its tunnel is open, so the handshake ends after that, and
// Envoy sends nothing before the handshake has ended. A tunnel that does not come is a connection that failed: the request goes to
// another endpoint, whatever its method, and Cluster.connect_timeout bounds the wait for TCP, TLS, the certificate and the CONNECT.
//
// It is TLS 1.2. Envoy 1.40 takes one step of a handshake when it first can write, before tcp_proxy reads. In TLS 1.3 that would
// be the listener's only one; in TLS 1.2 there are two, without resumption.
//
// This TLS protects nothing. Its bytes are never outside of Envoy's memory, and nobody checks the certificate.

// secretInside is the secret with the certificate of internal listeners.
const secretInside = "INSIDE"

// insideTLS is what costs least.
func insideTLS() *tls.TlsParameters {
	return &tls.TlsParameters{
		TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_2,
		CipherSuites:              []string{"ECDHE-ECDSA-AES128-GCM-SHA256"},
		EcdhCurves:                []string{"P-256"}, // the certificate's too
	}
}

// untilReached is the end of a connection to an internal listener that is open when the listener's upstream connection is.
func untilReached() *core.TransportSocket {
	return transportSocket("envoy.transport_sockets.tls", &tls.UpstreamTlsContext{
		MaxSessionKeys:   number(0),
		CommonTlsContext: &tls.CommonTlsContext{TlsParams: insideTLS()},
	})
}

// onceReached is the other end.
func onceReached() *core.TransportSocket {
	return transportSocket("envoy.transport_sockets.tls", &tls.DownstreamTlsContext{
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType:            &tls.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      insideTLS(),
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{{Name: secretInside, SdsConfig: fromADS()}},
		},
	})
}

// insideCertificate makes the certificate of internal listeners. It is a secret of its own, because a listener that changed would end
// its connections, and each agent makes another one.
func insideCertificate() (*built, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"inside"}, // Envoy wants a name
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	b := certificate(secretInside, chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), model.ObjectRef{})
	b.objects = nil // nobody's
	return b, b.err
}

// mustInsideCertificate is insideCertificate. It fails only where the standard library is broken.
func mustInsideCertificate() *built {
	b, err := insideCertificate()
	if err != nil {
		panic(fmt.Sprintf("the certificate of Envoy's internal listeners: %v", err))
	}
	return b
}
