package cluster

import (
	stdjson "encoding/json"
	"errors"
	"iter"
	"strconv"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/weft-mesh/weft/internal/kube"
)

// mostStrictErrors is how many fields sigs.k8s.io/json reports at most.
const mostStrictErrors = 100

// unknown returns the fields of an object that its Go type does not have. The status, which others write, and what metadata have,
// decide about nobody.
func (r *objectReader) unknown(text []byte) (unknown kube.UnknownFields, err error) {
	obj, err := r.scheme.New(r.kind)
	if err != nil {
		return nil, err
	}
	if text, err = withoutStatus(text); err != nil {
		return nil, err
	}
	strict, err := kjson.UnmarshalStrict(text, obj, kjson.DisallowUnknownFields)
	if err != nil {
		return nil, err
	}
	var values map[string]any
	for _, e := range strict {
		var at kjson.FieldError
		if !errors.As(e, &at) {
			return nil, e
		}
		path := at.FieldPath()
		if decidesNothing(path) {
			continue
		}
		if r.harmless != nil {
			if values == nil {
				if err := stdjson.Unmarshal(text, &values); err != nil {
					return nil, err
				}
			}
			value, _ := valueAt(values, path)
			if unset, err := r.harmless(path, value); err != nil {
				return nil, err
			} else if unset {
				continue
			}
		}
		unknown = unknown.Add(path)
	}
	if len(strict) >= mostStrictErrors {
		unknown = unknown.Add(kube.MoreUnknownFields)
	}
	return unknown, nil
}

// withoutStatus takes the status out of an object: of more than mostStrictErrors fields, those in it would hide others.
func withoutStatus(text []byte) ([]byte, error) {
	var parts map[string]stdjson.RawMessage
	if err := stdjson.Unmarshal(text, &parts); err != nil {
		return nil, err
	}
	delete(parts, "status")
	return stdjson.Marshal(parts)
}

// decidesNothing reports whether a field may be dropped. Session persistence is refused with whatever is in it: releases before
// v1.7 have fields there that are gone.
func decidesNothing(path string) bool {
	return strings.HasPrefix(path, "metadata.") || strings.Contains(path, "].sessionPersistence.")
}

// pathParts splits a path such as spec.rules[0].when into names and indexes.
func pathParts(path string) iter.Seq[string] {
	return strings.FieldsFuncSeq(path, func(c rune) bool { return c == '.' || c == '[' || c == ']' })
}

// valueAt returns the value at a path such as spec.rules[0].when.
func valueAt(v any, path string) (any, bool) {
	for name := range pathParts(path) {
		switch in := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = in[name]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}
