package manifests

import (
	"fmt"
	"reflect"
	"strings"
)

// maxListed is how many fields are listed where none is like the unknown one.
const maxListed = 12

// fieldHint says which field may be meant by one that does not exist: one with nearly the same name, or else those that are
// there, if they are few. path is that of the unknown field in obj, as decoders write it: spec.rules[0].backendRef.
func fieldHint(obj any, path string) string {
	steps := strings.Split(path, ".")
	t := reflect.TypeOf(obj)
	for _, step := range steps[:len(steps)-1] {
		name, _, _ := strings.Cut(step, "[")
		if t = fieldsOf(t)[name]; t == nil {
			return ""
		}
	}
	unknown, fields := steps[len(steps)-1], jsonFields(t)
	best, like := min(2, len(unknown)/2)+1, ""
	for _, f := range fields {
		if d := distance(strings.ToLower(unknown), strings.ToLower(f)); d < best {
			best, like = d, f
		}
	}
	if like != "" {
		return fmt.Sprintf(" (did you mean %q?)", like)
	}
	if len(fields) == 0 || len(fields) > maxListed {
		return ""
	}
	return " (there are " + strings.Join(fields, ", ") + ")"
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	eachField(t, func(name string, of reflect.Type) { out[name] = of })
	return out
}

func jsonFields(t reflect.Type) []string {
	var out []string
	eachField(t, func(name string, _ reflect.Type) { out = append(out, name) })
	return out
}

// eachField gives the names by which JSON knows the fields of a struct, or of what a pointer or list of it is of.
func eachField(t reflect.Type, yield func(name string, of reflect.Type)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name != "" && name != "-":
			yield(name, f.Type)
		case f.Anonymous && strings.Contains(options, "inline"):
			eachField(f.Type, yield)
		}
	}
}

// distance is how many letters two names differ by: left out, added, or another.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
