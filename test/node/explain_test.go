package node

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// Each round has policies, routes and a mode of its own, drawn from the round's number, and is asked with probes.
const (
	explainRounds     = 5
	explainRoundsLong = 20 // make explain
	explainProbes     = 60
)

// explained compares weft explain with what connections and requests see.
func explained(t *testing.T, m *mesh) {
	rounds := explainRounds
	if long {
		rounds = explainRoundsLong
	}
	t.Cleanup(func() {
		if err := m.Write("mesh/ns-flip.yaml", []byte(namespaceManifest("flip", "disabled"))); err != nil {
			t.Error(err)
		}
	})
	verdicts := map[explain.Verdict]int{}
	for n := range rounds {
		t.Run(fmt.Sprintf("round %d", n), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(n), 12))
			m.explainRound(t, rng, n)
			for range explainProbes {
				p := m.randomProbe(rng)
				verdicts[m.compareProbe(t, p)]++
			}
		})
	}
	t.Logf("verdicts: %v", verdicts)
	for _, v := range []explain.Verdict{explain.Allowed, explain.Refused, explain.Failing} {
		if verdicts[v] < rounds {
			t.Errorf("%d of the probes were %s: too few to show anything", verdicts[v], v)
		}
	}
}

// guarded are Services whose pod gets a policy, more often than not.
var guarded = []string{"guard/srv", "strict/srv", "perm/srv", "flip/srv", "plain/s1"}

// explainRound writes the objects of a round, and waits until the node has read them.
func (m *mesh) explainRound(t *testing.T, rng *rand.Rand, n int) {
	t.Helper()
	mode := pick(rng, "disabled", "permissive", "strict")
	if err := m.Write("mesh/ns-flip.yaml", []byte(namespaceManifest("flip", mode))); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	name := fmt.Sprintf("round-%d", n)
	for i, key := range guarded {
		if i > 0 && rng.IntN(4) == 0 {
			continue // the first one always has a policy
		}
		ns, svc := model.SplitKey(key)
		fmt.Fprintf(&text, `---
apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: %s}
spec:
  targetRefs: [{kind: Service, name: %s}]
  action: ALLOW
  rules:%s
`, name, ns, svc, randomRules(rng))
	}
	text.WriteString(randomRoute(rng, name, "plain", "echo", []string{"s1", "s2", "nowhere"}))
	text.WriteString(randomRoute(rng, name, "guard", "l7", []string{"srv"}))
	m.apply(t, text.String())
	until(t, "the round is read", func() error {
		policies, err := api.List[api.WorkloadPolicy](t.Context(), m.API, api.Policies, "guard", "srv")
		if err != nil || len(policies) != 1 || !slices.Equal(policies[0].Policies, []string{"guard/" + name}) {
			return fmt.Errorf("policies %+v, %w", policies, err)
		}
		routes, err := api.List[model.RouteTable](t.Context(), m.API, api.Routes, "plain", "echo")
		if text, _ := json.Marshal(routes); err != nil || !strings.Contains(string(text), `"`+name+`"`) {
			return fmt.Errorf("routes %s, %w", text, err)
		}
		s, err := m.API.Status(t.Context())
		if err != nil || !slices.ContainsFunc(s.Workloads, func(w api.Workload) bool {
			return w.Namespace == "flip" && w.Name == "srv" && w.MTLS.String() == mode
		}) {
			return fmt.Errorf("flip/srv is not %s, %w", mode, err)
		}
		return nil
	})
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// randomRules makes up to three rules.
func randomRules(rng *rand.Rand) string {
	n := rng.IntN(4)
	if n == 0 {
		return " []"
	}
	var b strings.Builder
	for range n {
		parts := []string{
			pick(rng, "", "", `sources: [{type: ServiceAccount, serviceAccount: {name: alice, namespace: strict}}]`,
				`sources: [{type: SPIFFE, spiffe: spiffe://cluster.local/ns/strict/sa/bob}]`,
				`sources: [{type: Namespace, namespace: perm}, {type: Namespace, namespace: flip}]`,
				`sources: [{type: Namespace, namespace: strict}]`),
			pick(rng, "", "", `networkAttributes: {ports: [8080]}`, `networkAttributes: {ports: [7070]}`, `networkAttributes: {ports: [8080, 9090]}`),
			pick(rng, "", "", "", `http: [{methods: [GET], paths: [{type: PathPrefix, value: /a}]}]`,
				`http: [{methods: [POST, PUT]}, {paths: [{type: Exact, value: /b}]}]`, `http: [{paths: [{type: RegularExpression, value: "/[a-c]/.*"}]}]`),
		}
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		if len(parts) == 0 {
			parts = []string{`networkAttributes: {ports: [8080]}`}
		}
		fmt.Fprintf(&b, "\n    - {%s}", strings.Join(parts, ", "))
	}
	return b.String()
}

// randomRoute makes a route with up to five rules.
func randomRoute(rng *rand.Rand, name, namespace, service string, backends []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, port: 80}]
  rules:
`, name, namespace, service)
	for range 1 + rng.IntN(5) {
		var matches []string
		for range 1 + rng.IntN(2) {
			fields := []string{
				pick(rng, "", `path: {type: PathPrefix, value: /a}`, `path: {type: Exact, value: /b}`, `path: {type: RegularExpression, value: "/[a-c]/x?"}`),
				pick(rng, "", "", `method: GET`, `method: POST`),
				pick(rng, "", "", `headers: [{name: x-user, value: alice}]`, `headers: [{name: X-User, type: RegularExpression, value: "a.*"}]`),
				pick(rng, "", "", `queryParams: [{name: v, value: two words}]`, `queryParams: [{name: v, type: RegularExpression, value: "[0-9]+"}]`),
			}
			fields = slices.DeleteFunc(fields, func(s string) bool { return s == "" })
			matches = append(matches, "{"+strings.Join(fields, ", ")+"}")
		}
		fmt.Fprintf(&b, "    - matches: [%s]\n", strings.Join(matches, ", "))
		if rng.IntN(5) == 0 {
			b.WriteString("      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]\n")
			continue
		}
		var refs []string
		for range 1 + rng.IntN(2) {
			refs = append(refs, fmt.Sprintf("{name: %s, port: 80, weight: %d}", pick(rng, backends...), rng.IntN(4)))
		}
		fmt.Fprintf(&b, "      backendRefs: [%s]\n", strings.Join(refs, ", "))
	}
	return b.String()
}

// probe is a question, and how to find out.
type probe struct {
	from    *lab.Pod
	q       explain.Question
	address string
}

func (m *mesh) randomProbe(rng *rand.Rand) probe {
	source := pick(rng, "strict/alice", "strict/bob", "perm/c", "plain/c", "flip/c", "guard/srv")
	ns, name := model.SplitKey(source)
	p := probe{from: m.Pod(ns, name), q: explain.Question{From: source}}
	family := rng.IntN(2)
	bytes := rng.IntN(3) == 0
	if rng.IntN(2) == 0 {
		to := pick(rng, "guard/srv", "strict/srv", "perm/srv", "flip/srv", "plain/s1", "plain/s2")
		ns, name := model.SplitKey(to)
		p.q.To = explain.Target{Kind: explain.KindPod, Name: to, Port: 8080}
		if bytes {
			p.q.To.Port = 7070
		}
		p.address = at(both(m.Pod(ns, name))[family], p.q.To.Port)
	} else {
		to := pick(rng, "guard/srv", "guard/l7", "strict/srv", "strict/l7", "perm/srv", "flip/srv", "flip/l7", "plain/echo", "plain/echo", "plain/l4")
		ns, name := model.SplitKey(to)
		p.q.To = explain.Target{Kind: explain.KindService, Name: to, Port: 80}
		if bytes {
			p.q.To.Port = 70
		}
		p.address = at(serviceIPs(ns, name)[family], p.q.To.Port)
	}
	if !bytes {
		p.q.Request = &explain.Request{
			Method: pick(rng, http.MethodGet, http.MethodGet, http.MethodPost, http.MethodPut), Host: pick(rng, "some.example", "some.example:80"),
			Path: pick(rng, "/", "/a", "/a/x", "/ab", "/b", "/b/", "/c/x", "/a/../b", "/b/./../a", "//a", "/a%2fx") + pick(rng, "", "?v=two+words", "?v=12", "?v=x"),
		}
		if rng.IntN(2) == 0 {
			p.q.Request.Headers = []model.Header{{Name: "x-user", Value: pick(rng, "alice", "amy", "bob")}}
		}
	}
	return p
}

// compareProbe tries until both agree: the planes follow the rows. It returns the verdict.
func (m *mesh) compareProbe(t *testing.T, p probe) explain.Verdict {
	t.Helper()
	var verdict explain.Verdict
	text, _ := json.Marshal(p.q)
	until(t, string(text), func() error {
		a, err := m.API.Explain(t.Context(), p.q)
		if err != nil {
			return err
		}
		verdict = a.Verdict
		if p.q.Request == nil && a.Request != nil {
			return nil // bytes where requests decide: there is nothing to compare
		}
		want, seen := outcomes(a), p.try()
		if !slices.Contains(want, seen) {
			all, _ := json.Marshal(a)
			return fmt.Errorf("it saw %q, and explain says %q: %s", seen, want, all)
		}
		return nil
	})
	return verdict
}

// try returns what a client sees: the backend that answered, the status that the mesh answered, or "no connection".
func (p *probe) try() string {
	const none = "no connection"
	if p.q.Request == nil {
		s, err := open(p.from, p.address)
		if err != nil {
			return none
		}
		defer s.Close()
		return s.server
	}
	r := request{method: p.q.Request.Method, path: p.q.Request.Path, host: p.q.Request.Host, header: http.Header{}}
	for _, h := range p.q.Request.Headers {
		r.header.Add(h.Name, h.Value)
	}
	a, err := call(p.from, p.address, r)
	switch {
	case err != nil:
		return none
	case a.saw.Pod != "":
		return a.saw.Pod
	}
	return fmt.Sprint(a.status)
}

// outcomes lists what try may return.
func outcomes(a *explain.Answer) []string {
	var out []string
	if len(a.Ends) == 0 {
		if a.Status != 0 {
			return []string{fmt.Sprint(a.Status)}
		}
		return []string{"no connection"}
	}
	for _, end := range a.Ends {
		switch {
		case end.Verdict == explain.Allowed:
			out = append(out, end.Workload)
		case end.Status != 0:
			out = append(out, fmt.Sprint(end.Status))
		case end.Way == explain.ByEnvoy || end.Way == explain.ByEnvoyHBONE || end.Way == explain.ByEnvoyTunnel:
			out = append(out, "503")
		default:
			out = append(out, "no connection")
		}
	}
	return out
}
