package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/state"
)

func TestTraceSampling(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "100": 100, "12.5": 12.5, "101": -1, "-1": -1, "NaN": -1, "1%": -1, "": -1} {
		db := state.NewDB()
		objs := NewObjects(db)
		w := db.Write(objs.Namespaces)
		objs.Namespaces.Put(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{LabelTraceSampling: text}}})
		objs.Namespaces.Put(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
		w.Commit()
		got, problem := objs.TraceSampling(db.Snapshot(), "shop")
		switch {
		case want < 0 && (got != nil || problem == ""):
			t.Errorf("%q: %v, problem %q", text, got, problem)
		case want >= 0 && (got == nil || *got != want || problem != ""):
			t.Errorf("%q: %v, problem %q", text, got, problem)
		}
		for _, ns := range []string{"other", "gone"} {
			if got, problem := objs.TraceSampling(db.Snapshot(), ns); got != nil || problem != "" {
				t.Errorf("namespace %s: %v, %q", ns, got, problem)
			}
		}
	}
}
