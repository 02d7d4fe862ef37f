package xds

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weft-mesh/weft/internal/model"
)

// TestForeignEndpointsGetNothingFromEnvoy: neither under an identity nor in the clear.
func TestForeignEndpointsGetNothingFromEnvoy(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "evil/s", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Identity: "spiffe://weft.test/ns/bank/sa/vault", NotGranted: true},
		{Address: netip.MustParseAddrPort("10.0.0.2:8080"), Identity: "spiffe://weft.test/ns/evil/sa/own"},
	}})
	for _, name := range []string{"service/evil/s/80", "service/evil/s/80|plain"} {
		m, ok := w.server.Build(TypeEndpoint, name)
		if !ok {
			t.Fatalf("there are no endpoints %s", name)
		}
		text := protojson.Format(m)
		if strings.Contains(text, "10.0.0.1") || !strings.Contains(text, "10.0.0.2") {
			t.Errorf("%s: %s", name, text)
		}
	}
}
