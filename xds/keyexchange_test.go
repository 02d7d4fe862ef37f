package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// peersCurves are what a peer that is not Envoy has, in its order, and the group that the handshake must agree on.
var peersCurves = map[string]struct {
	has  []tls.CurveID
	want tls.CurveID
}{
	"a peer with ML-KEM":             {[]tls.CurveID{tls.X25519MLKEM768, tls.X25519}, tls.X25519MLKEM768},
	"a peer that prefers another":    {[]tls.CurveID{tls.X25519, tls.CurveP256, tls.X25519MLKEM768}, tls.X25519MLKEM768},
	"a peer with X25519 alone":       {[]tls.CurveID{tls.X25519}, tls.X25519},
	"a peer with a NIST curve alone": {[]tls.CurveID{tls.CurveP256}, tls.CurveP256},
}

// TestKeyExchangeInbound connects to a workload's HBONE port and to a Gateway.
func TestKeyExchangeInbound(t *testing.T) {
	pods := labPods(t, "a", "b")
	a, b := pods[0], pods[1]
	w := newWorld(t, Config{})
	wb := workload(b, "shop", model.MTLSStrict, nil)
	put(w, w.st.Workloads, wb)
	put(w, w.st.SVIDs, w.ca.svid(wb.Identity))
	port := freePort(t)
	chain, key := w.ca.issue("", "shop.example")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	table := model.GatewayTable("shop", "gw", port, "l")
	put(w, w.st.RouteTables, &model.RouteTable{Name: table})
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, TLS: true, Listeners: []model.GatewayListener{
			{Name: "l", RouteTable: table, Certificates: []string{"shop/cert"}},
		}}},
	})
	w.envoy()
	w.noRejections()

	dials := map[string]func(context.Context) (net.Conn, error){
		"a workload": func(ctx context.Context) (net.Conn, error) {
			return a.Dial(ctx, "tcp", netip.AddrPortFrom(b.Address, PortHBONE).String())
		},
		"a Gateway": func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprint("127.0.0.1:", port))
		},
	}
	for to, dial := range dials {
		for name, test := range peersCurves {
			t.Run(name+" to "+to, func(t *testing.T) {
				cfg := w.ca.tlsConfig(identity("shop", "a"))
				cfg.VerifyConnection, cfg.CurvePreferences = nil, test.has
				until(t, "a handshake", func() error {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					raw, err := dial(ctx)
					if err != nil {
						return err
					}
					c := tls.Client(raw, cfg)
					defer c.Close()
					if err := c.HandshakeContext(ctx); err != nil {
						return err
					}
					if got := c.ConnectionState().CurveID; got != test.want {
						t.Errorf("the key exchange is %s, want %s", got, test.want)
					}
					return nil
				})
			})
		}
	}
}

// TestKeyExchangeOutbound lets Envoy connect to peers.
func TestKeyExchangeOutbound(t *testing.T) {
	for name, test := range peersCurves {
		t.Run(name, func(t *testing.T) {
			a := labPods(t, "a")[0]
			w := newWorld(t, Config{})
			wa := workload(a, "shop", model.MTLSStrict, nil)
			peer := &model.Workload{
				Namespace: "shop", Name: "b", Identity: identity("shop", "b"), MTLS: model.MTLSStrict,
				Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, // as in TestBytesOverHBONE
			}
			put(w, w.st.Workloads, wa, peer)
			put(w, w.st.SVIDs, w.ca.svid(wa.Identity))
			got := make(chan tls.CurveID, 10)
			cfg := w.ca.tlsConfig(peer.Identity)
			cfg.CurvePreferences = test.has
			verify := cfg.VerifyConnection
			cfg.VerifyConnection = func(s tls.ConnectionState) error {
				select {
				case got <- s.CurveID:
				default: // more connections than anybody looks at
				}
				return verify(s)
			}
			hboneServer(t, a, "127.0.0.1:15008", cfg)
			w.envoy()
			w.noRejections()
			c, err := a.Dial(t.Context(), "tcp", "127.0.0.1:15002")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(errors.Join(errors.New("no answer by the tunnel"), err))
			}
			if curve := <-got; curve != test.want {
				t.Errorf("the key exchange is %s, want %s", curve, test.want)
			}
		})
	}
}
