package manifests

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

func TestFieldHint(t *testing.T) {
	for _, c := range []struct {
		obj        any
		path, want string
	}{
		{&gwv1.HTTPRoute{}, "spec.rules[0].matchs", ` (did you mean "matches"?)`},
		{&gwv1.HTTPRoute{}, "spec.rules[0].backendRefs[1].wieght", ` (did you mean "weight"?)`},
		{&gwv1.HTTPRoute{}, "spec.hostNames", ` (did you mean "hostnames"?)`},
		{&gwv1.HTTPRoute{}, "spec.rules[0].route", " (there are name, matches, filters, backendRefs, timeouts, retry, sessionPersistence)"},
		{&weftv1.AuthorizationPolicy{}, "spec.rules[0].ports", " (there are sources, networkAttributes, http)"},
		{&corev1.Service{}, "spec.prots", ` (did you mean "ports"?)`},
		{&corev1.Pod{}, "spec.somethingElse", ""}, // too many to list
		{&corev1.Pod{}, "metadata.labels.x", ""},  // any key may be there
		{&corev1.Pod{}, "speck", ` (did you mean "spec"?)`},
		{&corev1.Pod{}, "nowhere.to.be.found", ""},
		{&corev1.Pod{}, "", ""},
	} {
		if got := fieldHint(c.obj, c.path); got != c.want && !(c.path == "" && strings.HasPrefix(got, " (there are")) {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}
