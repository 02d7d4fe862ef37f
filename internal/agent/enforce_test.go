package agent

import (
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

func TestCovers(t *testing.T) {
	const alice, bob = model.Identity("spiffe://td/ns/a/sa/alice"), model.Identity("spiffe://td/ns/b/sa/bob")
	get := []model.HTTPRule{{Methods: []string{"GET"}}}
	policy := func(rules ...model.PolicyRule) *model.Policy { return &model.Policy{Rules: rules} }
	from := func(id model.Identity, ports ...uint16) model.PolicyRule {
		return model.PolicyRule{Sources: []model.PolicySource{{Identity: id}}, Ports: ports}
	}
	anybody := func(ports ...uint16) model.PolicyRule { return model.PolicyRule{Ports: ports} }
	for name, c := range map[string]struct {
		before, now *model.Policy
		peer        model.Identity
		port        uint16
		want        bool
	}{
		"no policy any more":            {policy(), nil, alice, 0, true},
		"first policy":                  {nil, policy(from(alice, 80)), alice, 0, false},
		"first policy allows all":       {nil, policy(from(alice)), alice, 0, true},
		"first policy, in the clear":    {nil, policy(from(alice)), "", 80, false},
		"the same":                      {policy(from(alice, 80)), policy(from(alice, 80)), alice, 0, true},
		"another peer goes":             {policy(from(alice), from(bob)), policy(from(alice)), alice, 0, true},
		"this peer goes":                {policy(from(alice), from(bob)), policy(from(alice)), bob, 0, false},
		"by namespace instead":          {policy(from(alice)), policy(model.PolicyRule{Sources: []model.PolicySource{{Namespace: "a"}}}), alice, 0, true},
		"a namespace's beginning":       {policy(from(bob)), policy(model.PolicyRule{Sources: []model.PolicySource{{Namespace: "bb"}}}), bob, 0, false},
		"a port goes":                   {policy(from(alice, 80, 81)), policy(from(alice, 80)), alice, 0, false},
		"ports of two rules":            {policy(from(alice, 80, 81)), policy(from(alice, 80), anybody(81)), alice, 0, true},
		"another port, in the clear":    {policy(anybody(80, 81)), policy(anybody(80)), "", 80, true},
		"this port, in the clear":       {policy(anybody(80, 81)), policy(anybody(80)), "", 81, false},
		"all ports, then this one":      {policy(anybody()), policy(anybody(80)), "", 80, true},
		"nothing was allowed":           {policy(), policy(), bob, 0, true},
		"sources that can match nobody": {policy(model.PolicyRule{Sources: []model.PolicySource{}}), policy(), alice, 0, true},
		"requests instead of bytes":     {policy(from(alice)), policy(model.PolicyRule{HTTP: get}), alice, 0, false},
		"bytes instead of requests":     {policy(model.PolicyRule{HTTP: get}), policy(from(alice)), alice, 0, true},
		"the same requests":             {policy(model.PolicyRule{HTTP: get}), policy(model.PolicyRule{HTTP: get}), alice, 0, true},
		"an identity that is not there": {policy(from("")), policy(), "", 80, true},
	} {
		if got := covers(c.now, c.before, c.peer, c.port); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
