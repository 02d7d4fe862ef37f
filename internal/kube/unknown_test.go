package kube

import (
	"fmt"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestUnknownFields(t *testing.T) {
	var u UnknownFields
	for _, path := range []string{"spec.rules[1].when", "spec.rules[10].a.b[2]", "spec.parentRefs[0].when", "spec.rules[1].when", "spec.a,b"} {
		u = u.Add(path)
	}
	o := &gwv1.HTTPRoute{}
	NoteUnknownFields(o, u)
	got := UnknownFieldsOf(o)
	for what, pair := range map[string][2]any{
		"all":       {got, "spec.rules[1].when, spec.rules[10].a.b[2], spec.parentRefs[0].when, spec.ab"},
		"in 1":      {got.In("spec.rules", 1), "spec.rules[1].when"},
		"in 10":     {got.In("spec.rules", 10), "spec.rules[10].a.b[2]"},
		"in 0":      {got.In("spec.rules", 0), ""},
		"outside":   {got.Outside("spec.rules"), "spec.parentRefs[0].when, spec.ab"},
		"too many":  {got.Add("a").Add("b").Add("c").Add("d").Add("spec.rules[0].e").Add("f").Outside("spec.rules")[6:], "more fields"},
		"a message": {UnknownFields{"a"}.Message(), "a: not known to this version of the mesh"},
	} {
		if fmt.Sprint(pair[0]) != pair[1] {
			t.Errorf("%s: %v, want %s", what, pair[0], pair[1])
		}
	}
	NoteUnknownFields(o, nil)
	if len(UnknownFieldsOf(o)) > 0 || UnknownFields(nil).Message() != "" {
		t.Error("fields are left")
	}
}
