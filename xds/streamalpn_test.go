package xds

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// TestTerminatedStreamsAgreeOnAProtocol: where a Gateway ends TLS for bytes, the backend speaks with the client. So the client must
// not be told that HTTP/2 is spoken unless all backends say so.
func TestTerminatedStreamsAgreeOnAProtocol(t *testing.T) {
	w := newWorld(t, Config{})
	greeter(t, w, "bytes", nil)
	greeter(t, w, "rpc", nil)
	rpc := &model.Service{Namespace: "shop", Name: "rpc", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, AppProtocol: "kubernetes.io/h2c"}}}
	put(w, w.st.Services, rpc)
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	port := freePort(t)
	bytes, both, h2, none := streamRef("TLSRoute", "bytes"), streamRef("TLSRoute", "both"), streamRef("TLSRoute", "h2"), streamRef("TLSRoute", "none")
	putStream(w, bytes, to("bytes", 1))
	putStream(w, both, to("bytes", 1), to("rpc", 1))
	putStream(w, h2, to("rpc", 1), model.Backend{Invalid: true, Weight: 1})
	putStream(w, none, model.Backend{Invalid: true, Weight: 1})
	putGateway(w, model.GatewayPort{Port: port, TLS: true, Listeners: []model.GatewayListener{{
		Name: "end", Certificates: []string{"shop/cert"}, Streams: []model.GatewayStream{
			{Hostname: "bytes.example", Route: bytes}, {Hostname: "both.example", Route: both},
			{Hostname: "h2.example", Route: h2}, {Hostname: "none.example", Route: none},
		},
	}}})
	w.envoy()
	agreed := func(sni string, offered ...string) (string, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: offered}}
		c, err := d.DialContext(t.Context(), "tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().NegotiatedProtocol, nil
	}
	for _, c := range []struct {
		sni     string
		offered []string
		want    string
	}{
		{"bytes.example", []string{"h2", "http/1.1"}, ""},
		{"bytes.example", []string{"postgresql"}, ""},
		{"both.example", []string{"h2", "http/1.1"}, ""},
		{"h2.example", []string{"h2", "http/1.1"}, "h2"},
		{"h2.example", []string{"http/1.1"}, ""},
		{"none.example", []string{"h2", "http/1.1"}, ""},
	} {
		until(t, fmt.Sprint(c), func() error {
			got, err := agreed(c.sni, c.offered...)
			if err == nil && got != c.want {
				err = fmt.Errorf("agreed on %q, want %q", got, c.want)
			}
			return err
		})
	}
	// The Service says something else: the listener follows.
	rpc = &model.Service{Namespace: "shop", Name: "rpc", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}}
	put(w, w.st.Services, rpc)
	until(t, "no HTTP/2 any more", func() error {
		if got, err := agreed("h2.example", "h2"); err != nil || got != "" {
			return fmt.Errorf("agreed on %q: %w", got, err)
		}
		return nil
	})
	w.noRejections()
}
