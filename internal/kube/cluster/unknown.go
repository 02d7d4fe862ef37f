package cluster

import (
	stdjson "encoding/json"
	"errors"
	"iter"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/weft-mesh/weft/internal/kube"
)

// mostStrictErrors is how many fields sigs.k8s.io/json reports at most.
const mostStrictErrors = 100

// unknown returns the fields of an object that its Go type does not have.
func (r *objectReader) unknown(text []byte) (unknown kube.UnknownFields, err error) {
	obj, err := r.scheme.New(r.kind)
	if err != nil {
		return nil, err
	}
	strict, err := kjson.UnmarshalStrict(text, obj, kjson.DisallowUnknownFields)
	if err == nil && len(strict) >= mostStrictErrors {
		// Those of its status, which others write, may be all that there are.
		strict, err = strictWithoutStatus(text, obj)
	}
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
		unknown = unknown.Add("more fields")
	}
	return unknown, nil
}

func strictWithoutStatus(text []byte, like runtime.Object) ([]error, error) {
	var parts map[string]stdjson.RawMessage
	if err := stdjson.Unmarshal(text, &parts); err != nil {
		return nil, err
	}
	delete(parts, "status")
	rest, err := stdjson.Marshal(parts)
	if err != nil {
		return nil, err
	}
	return kjson.UnmarshalStrict(rest, like.DeepCopyObject(), kjson.DisallowUnknownFields)
}

// decidesNothing reports whether a field may be dropped. Session persistence is refused with whatever is in it: releases before
// v1.7 have fields there that are gone.
func decidesNothing(path string) bool {
	return strings.HasPrefix(path, "metadata.") || strings.HasPrefix(path, "status.") || strings.Contains(path, "].sessionPersistence.")
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
