package manifests

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube/crds"
)

// TestShortcutAgreesWithRules builds random routes around the edges of the rules. One that the shortcut takes must
// pass the rules themselves.
func TestShortcutAgreesWithRules(t *testing.T) {
	var all schemas
	s, err := all.get(schema.GroupKind{Group: gwv1.GroupName, Kind: "HTTPRoute"})
	if err != nil {
		t.Fatal(err)
	}
	taken, refused := 0, 0
	check := func(t *rapid.T) {
		m := randomRoute(t)
		if errs := s.completeAndValidate(m); len(errs) > 0 {
			return
		}
		var r gwv1.HTTPRoute
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m, &r); err != nil {
			t.Fatal(err)
		}
		errs := s.checkRules(m)
		if keepsRules(&r) {
			taken++
			if len(errs) > 0 {
				text, _ := json.Marshal(m)
				t.Fatalf("the shortcut takes what the rules refuse: %v\n%s", errs, text)
			}
		} else if len(errs) > 0 {
			refused++
		}
	}
	for range 10 {
		rapid.Check(t, check)
		if taken > 0 && refused > 0 {
			break
		}
	}
	if taken == 0 || refused == 0 {
		t.Errorf("of the routes %d were taken by the shortcut and %d refused by the rules: the test tells nothing", taken, refused)
	}
}

func randomRoute(t *rapid.T) map[string]any {
	pick := func(name string, from ...any) any { return rapid.SampledFrom(from).Draw(t, name) }
	maybe := func(m map[string]any, key string, from ...any) {
		if rapid.Bool().Draw(t, "with "+key) {
			m[key] = pick(key, from...)
		}
	}
	list := func(name string, most int, f func() any) []any {
		out := []any{}
		for range rapid.IntRange(0, most).Draw(t, name) {
			out = append(out, f())
		}
		return out
	}
	filter := func() any {
		f := map[string]any{"type": pick("type", "RequestRedirect", "URLRewrite")}
		maybe(f, "requestRedirect", map[string]any{"scheme": "https"})
		maybe(f, "urlRewrite", map[string]any{"hostname": "a.b"})
		return f
	}
	backend := func() any {
		b := map[string]any{"name": "web", "kind": pick("kind", "Service", "XBackend"), "group": pick("group", "", "gateway.networking.x-k8s.io")}
		maybe(b, "port", int64(80))
		if rapid.IntRange(0, 4).Draw(t, "filtered") == 0 {
			b["filters"] = list("filters", 2, filter)
		}
		return b
	}
	match := func() any {
		p := map[string]any{}
		maybe(p, "type", "Exact", "PathPrefix", "RegularExpression")
		maybe(p, "value", "/", "/a", "/a/b-c_d.e", "a", "/a//b", "/a/./b", "/a/../b", "/a/..", "/a/.", "/%2f", "/%41", "/#", "/ä", "/a b", "/.a", "/a.", "/~a")
		return map[string]any{"path": p}
	}
	rule := func() any {
		r := map[string]any{"matches": list("matches", 2, match), "backendRefs": list("backends", 2, backend)}
		maybe(r, "name", "one", "two")
		times := map[string]any{}
		maybe(times, "request", "0s", "1s", "1500ms", "1h", "1h30m")
		maybe(times, "backendRequest", "0s", "1s", "2s", "90m")
		maybe(r, "timeouts", times)
		if rapid.IntRange(0, 4).Draw(t, "filtered") == 0 {
			r["filters"] = list("filters", 2, filter)
		}
		return r
	}
	parent := func() any {
		p := map[string]any{"name": pick("parent", "a", "b")}
		maybe(p, "port", int64(80), int64(81))
		return p
	}
	return map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"name": "r", "namespace": "ns"},
		"spec": map[string]any{"parentRefs": list("parents", 2, parent), "rules": list("rules", 3, rule)},
	}
}

// TestRulesAreThoseTheShortcutKnows fails when a new release of the Gateway API brings other rules for HTTPRoutes.
// Read the new ones, see whether keepsRules still holds, and put the new sum here.
func TestRulesAreThoseTheShortcutKnows(t *testing.T) {
	const known = "c1768c3210cd013e"
	data, err := crds.Files.ReadFile("httproutes.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Schema any }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var rules []string
	var collect func(path string, v any)
	collect = func(path string, v any) {
		m, _ := v.(map[string]any)
		list, _ := m["x-kubernetes-validations"].([]any)
		for _, r := range list {
			rules = append(rules, path+" "+r.(map[string]any)["rule"].(string))
		}
		for k, c := range m {
			if k != "x-kubernetes-validations" {
				collect(path+"/"+k, c)
			}
		}
	}
	collect("", file.Schema)
	slices.Sort(rules)
	if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(rules, "\n"))))[:16]; sum != known {
		t.Errorf("the %d rules of HTTPRoute have the sum %s, not %s", len(rules), sum, known)
	}
}
