package tunnel

import (
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

func TestDecide(t *testing.T) {
	const a, b model.Identity = "spiffe://td/ns/shop/sa/a", "spiffe://td/ns/ops/sa/b"
	policy := &model.Policy{Rules: []model.PolicyRule{
		{Sources: []model.PolicySource{{Identity: a}}, Ports: []uint16{9000}},
		{Sources: []model.PolicySource{{Namespace: "ops"}}},
		{Sources: []model.PolicySource{{Identity: a}}, Ports: []uint16{8080}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}},
		{Sources: []model.PolicySource{}, Ports: []uint16{9100}},
		{Ports: []uint16{9200}},
	}}
	for _, tt := range []struct {
		name   string
		policy *model.Policy
		peer   model.Identity
		port   uint16
		want   decision
	}{
		{"no policy", nil, a, 80, carried},
		{"a policy without rules", &model.Policy{}, a, 80, denied},
		{"identity and port", policy, a, 9000, carried},
		{"another port", policy, a, 9001, denied},
		{"a namespace", policy, b, 9001, carried},
		{"a namespace that starts the same", policy, "spiffe://td/ns/ops2/sa/b", 9001, denied},
		{"an identity that starts the same", policy, a + "b", 9000, denied},
		{"a rule for nobody", policy, a, 9100, denied},
		{"a rule for everybody", policy, "spiffe://td/ns/x/sa/x", 9200, carried},
		{"requests", policy, a, 8080, inspected},
		{"requests, by a rule that does not look at them", policy, b, 8080, inspected},
		{"requests, by nobody whom a rule names", policy, "spiffe://td/ns/x/sa/x", 8080, denied},
		{"a port of the mesh", nil, a, model.PortHBONE, denied},
		{"a port of the mesh that a rule allows", policy, b, model.PortTunnel, denied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := decide(tt.policy, tt.peer, tt.port); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}
