package install

import (
	"testing"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
)

// TestLabelWarnings runs the expressions of the policy weft-labels as the oldest API server that is supported does: what is
// misspelt or misplaced is warned of, and nothing else is.
func TestLabelWarnings(t *testing.T) {
	policy := find[*admissionv1.ValidatingAdmissionPolicy](t, objects(t, "weft.yaml"), "weft-labels")
	oldest := version.MajorMinor(1, 30)
	set, err := environment.MustBaseEnvSet(oldest).Extend(environment.VersionedOptions{
		IntroducedVersion: oldest, EnvOptions: []cel.EnvOption{cel.Variable("object", cel.DynType)},
	})
	if err != nil {
		t.Fatal(err)
	}
	env, err := set.Env(environment.NewExpressions)
	if err != nil {
		t.Fatal(err)
	}
	warnings := func(kind string, labels map[string]any) (n int) {
		t.Helper()
		object := map[string]any{"kind": kind, "metadata": map[string]any{"labels": labels}}
		for _, v := range policy.Spec.Validations {
			checked, issues := env.Compile(v.Expression)
			if issues.Err() != nil {
				t.Fatalf("%s: %v", v.Expression, issues.Err())
			}
			program, err := env.Program(checked)
			if err != nil {
				t.Fatalf("%s: %v", v.Expression, err)
			}
			out, _, err := program.Eval(map[string]any{"object": object})
			if err != nil {
				t.Fatalf("%s: %v", v.Expression, err)
			}
			if out.Value() != true {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		kind, label, value string
		warn               bool
	}{
		{"Namespace", "weft.io/mtls", "strict", false},
		{"Namespace", "weft.io/mtls", "Strict", true},
		{"Namespace", "weft.io/mtl", "strict", true},
		{"Namespace", "weft.io/mtls-enforce", "enabled", false},
		{"Namespace", "weft.io/l7", "enabled", false},
		{"Namespace", "weft.io/trace-sampling", "2.5", false},
		{"Namespace", "weft.io/trace-sampling", "100", false},
		{"Namespace", "weft.io/trace-sampling", "100.5", true},
		{"Namespace", "weft.io/connectivity-test", "x", false},
		{"Namespace", "kubernetes.io/metadata.name", "shop", false},
		{"Pod", "weft.io/mtls", "permissive", false},
		{"Pod", "weft.io/l7", "enabled", true},
		{"Pod", "app", "web", false},
		{"Service", "weft.io/l7", "disabled", false},
		{"Service", "weft.io/l7", "true", true},
		{"Service", "weft.io/mtls", "strict", true},
	} {
		if n := warnings(c.kind, map[string]any{c.label: c.value}); n != 0 != c.warn {
			t.Errorf("%s with %s: %s has %d warnings", c.kind, c.label, c.value, n)
		}
	}
}
