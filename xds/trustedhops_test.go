package xds

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// TestTrustedHops: what a proxy before a Gateway says of the client arrives where the Gateway trusts it, and a client's own word
// does not. A session that goes by the client's address goes by the one that is trusted.
func TestTrustedHops(t *testing.T) {
	w := newWorld(t, Config{})
	var addresses []model.Endpoint
	for _, name := range []string{"one", "two", "three", "four"} {
		backend(t, w, name)
		e, _ := w.st.Endpoints.Get(w.st.Snapshot(), (&model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP}).Key())
		addresses = append(addresses, e.Backends...)
	}
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "all", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}, Affinity: 1})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/all", Port: 80, Protocol: model.TCP, Backends: addresses})
	ports := map[uint32]uint16{}
	for hops := range uint32(3) {
		port := freePort(t)
		ports[hops] = port
		name := fmt.Sprint("gw", hops)
		table := model.GatewayTable("shop", name, port, "")
		put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Route: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: name}, Backends: []model.Backend{to("all", 1)},
		}}}}})
		put(w, w.st.Gateways, &model.Gateway{
			Namespace: "shop", Name: name, TrustedHops: hops, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}}},
		})
	}
	w.envoy()
	ask := func(hops uint32, forwardedFor string) (string, error) {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint("http://127.0.0.1:", ports[hops]), nil)
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-For", forwardedFor)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", answer.Status, text)
		}
		return string(text), err
	}
	for hops, proto := range map[uint32]string{0: "http", 1: "https", 2: "https"} {
		until(t, fmt.Sprint(hops, " hops"), func() error {
			got, err := ask(hops, "203.0.113.9, 192.0.2.7")
			for _, want := range []string{"X-Forwarded-Proto: " + proto + "\r\n", "X-Forwarded-For: 203.0.113.9, 192.0.2.7,"} {
				if err == nil && !strings.Contains(got, want) {
					err = fmt.Errorf("%q is missing in\n%s", want, got)
				}
			}
			return err
		})
		// Which backends answer when the trusted address alone changes, or one that is not trusted.
		backends := map[string]map[string]bool{"trusted": {}, "other": {}}
		for i := range 32 {
			forwardedFor := map[string]string{"trusted": fmt.Sprintf("203.0.113.%d", i), "other": fmt.Sprintf("198.51.100.%d, 203.0.113.1", i)}
			if hops == 2 {
				forwardedFor = map[string]string{"trusted": fmt.Sprintf("203.0.113.%d, 192.0.2.7", i), "other": fmt.Sprintf("198.51.100.%d, 203.0.113.1, 192.0.2.7", i)}
			}
			for which, value := range forwardedFor {
				got, err := ask(hops, value)
				if err != nil {
					t.Fatal(err)
				}
				name, _, _ := strings.Cut(got, " ")
				backends[which][name] = true
			}
		}
		if n := len(backends["other"]); n != 1 {
			t.Errorf("%d hops: sessions of %d backends follow an address that nobody vouches for", hops, n)
		}
		if n := len(backends["trusted"]); (n > 1) != (hops > 0) {
			t.Errorf("%d hops: the clients of a proxy have sessions with %d backends", hops, n)
		}
	}
	w.noRejections()
}
