package kube

import (
	"fmt"
	"strconv"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// TraceSampling returns the percentage of requests that the label of a namespace wants traced, from 0 to 100; nil if it has
// none. problem says why the label is not followed; "" if it is.
func (o *Objects) TraceSampling(s *state.Snapshot, namespace string) (percent *float64, problem string) {
	ns, ok := o.Namespaces.Get(s, model.Key("", namespace))
	if !ok {
		return nil, ""
	}
	text, ok := ns.Labels[LabelTraceSampling]
	if !ok {
		return nil, ""
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0 && v <= 100) {
		return nil, fmt.Sprintf("label %s: %.64q of namespace %s is no percentage from 0 to 100; the mesh's own applies", LabelTraceSampling, text, namespace)
	}
	return &v, ""
}
