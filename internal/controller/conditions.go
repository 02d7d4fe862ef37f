package controller

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// maxConditions is what the API's schemas take.
const maxConditions = 8

// mergeConditions returns the conditions that an object shall have: those of other controllers as they are, in their order,
// and ours. The time of a condition changes with its status only.
func mergeConditions(have []metav1.Condition, want []model.Condition, generation int64, now metav1.Time) []metav1.Condition {
	out := make([]metav1.Condition, 0, len(have)+len(want))
	for _, c := range have {
		wanted := slices.ContainsFunc(want, func(w model.Condition) bool { return w.Type == c.Type })
		if wanted || !slices.Contains(model.ConditionTypes, c.Type) {
			out = append(out, c)
		}
	}
	for _, w := range want {
		c := metav1.Condition{
			Type: w.Type, Status: metav1.ConditionFalse, Reason: w.Reason, Message: w.Message,
			ObservedGeneration: generation, LastTransitionTime: now,
		}
		if w.Status {
			c.Status = metav1.ConditionTrue
		}
		i := slices.IndexFunc(out, func(o metav1.Condition) bool { return o.Type == w.Type })
		switch {
		case i >= 0:
			if out[i].Status == c.Status {
				c.LastTransitionTime = out[i].LastTransitionTime
			}
			out[i] = c
		case len(out) < maxConditions:
			out = append(out, c)
		}
	}
	return out
}
