package hubble

import (
	"fmt"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"k8s.io/apimachinery/pkg/labels"
)

// byLabels passes flows of which an end has labels that one of the selectors selects. Keys may begin with the source of the
// label, as in k8s:app; without one it is any.
func byLabels(values []string, of func(*flowpb.Flow) *flowpb.Endpoint) (test, error) {
	type selector struct {
		labels.Selector
		sources map[string]string // of the keys; "" is any
	}
	var all []selector
	for _, v := range values {
		text, sources := unprefixed(v)
		s, err := labels.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a selector of labels: %w", v, err)
		}
		all = append(all, selector{s, sources})
	}
	return func(f *flowpb.Flow) bool {
		has := of(f).GetLabels()
		return slices.ContainsFunc(all, func(s selector) bool { return s.Matches(sourced{has, s.sources}) })
	}, nil
}

// unprefixed returns a selector without the sources of its keys, for the parser takes no colon, and the sources by key.
func unprefixed(selector string) (string, map[string]string) {
	sources := map[string]string{}
	var out strings.Builder
	depth, begin := 0, 0
	flush := func(end int) {
		part := selector[begin:end]
		key := strings.TrimLeft(part, " \t!")
		lead := part[:len(part)-len(key)]
		name := key
		if at := strings.IndexAny(key, " =!,<>"); at >= 0 {
			name = key[:at]
		}
		if source, bare, ok := strings.Cut(name, ":"); ok {
			key = key[len(source)+1:]
			if source != "any" {
				sources[bare] = source
			}
		}
		out.WriteString(lead + key)
	}
	for i, r := range selector {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			flush(i)
			out.WriteByte(',')
			begin = i + 1
		}
	}
	flush(len(selector))
	return out.String(), sources
}

// sourced are labels as SOURCE:KEY=VALUE.
type sourced struct {
	all     []string
	sources map[string]string
}

// Has implements labels.Labels.
func (l sourced) Has(key string) bool { _, ok := l.Lookup(key); return ok }

// Get implements labels.Labels.
func (l sourced) Get(key string) string { v, _ := l.Lookup(key); return v }

// Lookup implements labels.Labels.
func (l sourced) Lookup(key string) (string, bool) {
	for _, text := range l.all {
		name, value, _ := strings.Cut(text, "=")
		source, name, ok := strings.Cut(name, ":")
		if want := l.sources[key]; ok && name == key && (want == "" || want == source) {
			return value, true
		}
	}
	return "", false
}
