package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMode(t *testing.T) {
	const none = "-" // no label
	labels := func(v string) map[string]string {
		if v == none {
			return nil
		}
		return map[string]string{LabelMTLS: v}
	}
	for _, c := range []struct {
		name, pod, namespace string // values of the label
		enforce              string // value of the Namespace's label weft.io/mtls-enforce
		there                bool   // the Namespace's object is
		in                   string
		want                 model.MTLSMode
		known, problem       bool
	}{
		{"no label", none, none, none, true, "shop", model.MTLSDisabled, true, false},
		{"namespace's", none, "strict", none, true, "shop", model.MTLSStrict, true, false},
		{"pod's wins", "permissive", "strict", none, true, "shop", model.MTLSPermissive, true, false},
		{"pod's without the Namespace", "strict", none, none, false, "shop", model.MTLSStrict, true, false},
		{"neither", none, none, none, false, "shop", model.MTLSDisabled, false, false},
		{"pod's is not understood", "strickt", "disabled", none, true, "shop", model.MTLSStrict, true, true},
		{"namespace's is not understood", none, "on", none, true, "shop", model.MTLSStrict, true, true},
		{"pod's is weaker than what is enforced", "permissive", "strict", "enabled", true, "shop", model.MTLSStrict, true, true},
		{"pod's is off, and permissive is enforced", "disabled", "permissive", "enabled", true, "shop", model.MTLSPermissive, true, true},
		{"pod's is empty, and strict is enforced", "", "strict", "enabled", true, "shop", model.MTLSStrict, true, true},
		{"pod's is stricter than what is enforced", "strict", "permissive", "enabled", true, "shop", model.MTLSStrict, true, false},
		{"pod's is what is enforced", "permissive", "permissive", "enabled", true, "shop", model.MTLSPermissive, true, false},
		{"nothing is enforced", "disabled", "strict", "disabled", true, "shop", model.MTLSDisabled, true, false},
		{"enforced by a value that is not understood", "disabled", "strict", "yes", true, "shop", model.MTLSStrict, true, true},
		{"enforced without a mode", "permissive", none, "enabled", true, "shop", model.MTLSPermissive, true, false},
		{"pod's is weak without the Namespace", "permissive", none, none, false, "shop", model.MTLSPermissive, false, false},
		{"empty", "", "strict", none, true, "shop", model.MTLSDisabled, true, false},
		{"the mesh's own", "strict", "strict", none, true, Namespace, model.MTLSDisabled, true, false},
		{"the mesh's own without the Namespace", none, none, none, false, Namespace, model.MTLSDisabled, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs := NewObjects(state.NewDB())
			if c.there {
				set := labels(c.namespace)
				if c.enforce != none {
					if set == nil {
						set = map[string]string{}
					}
					set[LabelMTLSEnforce] = c.enforce
				}
				w := objs.Write()
				if err := objs.Put(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.in, Labels: set}}); err != nil {
					t.Fatal(err)
				}
				w.Commit()
			}
			got := objs.Mode(objs.DB.Snapshot(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.in, Name: "p", Labels: labels(c.pod)}})
			if got.Mode != c.want || got.Known != c.known || (got.Problem != "") != c.problem {
				t.Errorf("%+v, want %s, known %t, a problem %t", got, c.want, c.known, c.problem)
			}
		})
	}
}
