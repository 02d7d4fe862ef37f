package kube

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationUnknownFields is on objects of the Gateway API that have fields which this program does not know: their CRD is newer. The
// reader of a cluster writes it, whatever the object says itself. Its value is that of UnknownFields.String.
const AnnotationUnknownFields = "weft.io/unknown-fields"

// Bounds of UnknownFields, which are whatever a CRD calls its fields.
const (
	maxUnknownFields = 8
	maxUnknownField  = 200 // bytes
)

// MoreUnknownFields stands for the fields past the bound.
const MoreUnknownFields = "more fields"

// UnknownFields are the paths of fields, such as spec.rules[0].when. There are at most maxUnknownFields of them; those past that are one
// entry, of which it is not known where the fields are.
type UnknownFields []string

// Add notes a field.
func (u UnknownFields) Add(path string) UnknownFields {
	switch {
	case slices.Contains(u, path) || len(u) > maxUnknownFields:
		return u
	case len(u) == maxUnknownFields:
		return append(u, MoreUnknownFields)
	}
	return append(u, strings.ReplaceAll(cut(path, maxUnknownField), ",", ""))
}

// String lists the fields.
func (u UnknownFields) String() string { return strings.Join(u, ", ") }

// Message says what is wrong with the object; "" if all its fields are known.
func (u UnknownFields) Message() string {
	if len(u) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: not known to this version of the mesh", u)
}

// Of returns the fields that are about an element of a list, such as spec.rules: those in it, and those that may be about all of the
// object.
func (u UnknownFields) Of(list string, index int) UnknownFields {
	return slices.Concat(u.In(list, index), u.Outside(list))
}

// In returns the fields of the element of a list, such as spec.rules.
func (u UnknownFields) In(list string, index int) UnknownFields {
	prefix := list + "[" + strconv.Itoa(index) + "]"
	return u.having(func(path string) bool {
		rest, in := strings.CutPrefix(path, prefix)
		return in && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// Outside returns the fields that are in no element of a list. They may be about all of the object.
func (u UnknownFields) Outside(list string) UnknownFields {
	return u.having(func(path string) bool { return !strings.HasPrefix(path, list+"[") })
}

func (u UnknownFields) having(is func(path string) bool) UnknownFields {
	var out UnknownFields
	for _, path := range u {
		if is(path) {
			out = append(out, path)
		}
	}
	return out
}

// NoteUnknownFields notes on an object which of its fields are not known, in place of what it says itself.
func NoteUnknownFields(o metav1.Object, u UnknownFields) {
	annotations := o.GetAnnotations()
	if len(u) == 0 {
		delete(annotations, AnnotationUnknownFields)
		return
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationUnknownFields] = u.String()
	o.SetAnnotations(annotations)
}

// UnknownFieldsOf returns the fields of an object that are not known.
func UnknownFieldsOf(o metav1.Object) UnknownFields {
	if text := o.GetAnnotations()[AnnotationUnknownFields]; text != "" {
		return strings.Split(text, ", ")
	}
	return nil
}
