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
		return map[string]string{labelMTLS: v}
	}
	for _, c := range []struct {
		name, pod, namespace string // values of the label
		there                bool   // the Namespace's object is
		in                   string
		want                 model.MTLSMode
		known, problem       bool
	}{
		{"no label", none, none, true, "shop", model.MTLSDisabled, true, false},
		{"namespace's", none, "strict", true, "shop", model.MTLSStrict, true, false},
		{"pod's wins", "permissive", "strict", true, "shop", model.MTLSPermissive, true, false},
		{"pod's without the Namespace", "strict", none, false, "shop", model.MTLSStrict, true, false},
		{"neither", none, none, false, "shop", model.MTLSDisabled, false, false},
		{"pod's is not understood", "strickt", "disabled", true, "shop", model.MTLSStrict, true, true},
		{"namespace's is not understood", none, "on", true, "shop", model.MTLSStrict, true, true},
		{"empty", "", "strict", true, "shop", model.MTLSDisabled, true, false},
		{"the mesh's own", "strict", "strict", true, Namespace, model.MTLSDisabled, true, false},
		{"the mesh's own without the Namespace", none, none, false, Namespace, model.MTLSDisabled, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			objs := NewObjects(state.NewDB())
			if c.there {
				w := objs.Write()
				noError(t, objs.Put(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.in, Labels: labels(c.namespace)}}))
				w.Commit()
			}
			got := objs.Mode(objs.DB.Snapshot(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.in, Name: "p", Labels: labels(c.pod)}})
			if got.Mode != c.want || got.Known != c.known || (got.Problem != "") != c.problem {
				t.Errorf("%+v, want %s, known %t, a problem %t", got, c.want, c.known, c.problem)
			}
		})
	}
}
