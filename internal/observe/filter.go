package observe

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// Terms are filters as text. A flow must match each field. It matches a field if it matches one of the values, if there are
// any without a "!" before them, and none of those with one.
type Terms struct {
	// Namespace is that of either end.
	Namespace []string
	// From and To name the source and the destination: see ParsePeerFilter.
	From, To []string
	// Peer names either end, in the same ways.
	Peer     []string
	Verdict  []string // forwarded, refused, failed
	Layer    []string // L4, L7, mTLS
	Protocol []string // TCP, UDP, HTTP, DNS
	// Of requests: a method, a status (404, 5xx, 400-499), a path (/api, or /api/* for all that begins with /api/).
	Method, Status, Path []string
	// Query is a name that DNS was asked for, or "*.example.com" for all below it.
	Query []string
	// Label is one of the pod's at either end: KEY=VALUE, or KEY for any value.
	Label []string
	// Since and Until bound the time of a flow, both inclusive. Zero is no bound.
	Since, Until time.Time
}

// Fields are the terms with several values by their names, which weft observe's flags have too.
func (t *Terms) Fields() map[string]*[]string {
	return map[string]*[]string{
		"namespace": &t.Namespace, "from": &t.From, "to": &t.To, "peer": &t.Peer, "verdict": &t.Verdict, "layer": &t.Layer, "protocol": &t.Protocol,
		"method": &t.Method, "status": &t.Status, "path": &t.Path, "query": &t.Query, "label": &t.Label,
	}
}

// Empty reports whether no field has a value.
func (t *Terms) Empty() bool {
	for _, values := range t.Fields() {
		if len(*values) > 0 {
			return false
		}
	}
	return true
}

// maxTerms bounds the values of a field.
const maxTerms = 100

// Filter takes flows. The zero value takes all.
type Filter struct {
	tests        []func(*Flow) bool
	since, until time.Time
}

// Filter reads the terms. The error names the field.
func (t Terms) Filter() (Filter, error) {
	f := Filter{since: t.Since, until: t.Until}
	err := errors.Join(
		terms(&f, "namespace", t.Namespace, parseText, func(ns string, flow *Flow) bool {
			return flow.Source.Namespace() == ns || flow.Destination.Namespace() == ns
		}),
		terms(&f, "from", t.From, ParsePeerFilter, func(p PeerFilter, flow *Flow) bool { return p.match(flow.Source) }),
		terms(&f, "to", t.To, ParsePeerFilter, func(p PeerFilter, flow *Flow) bool { return p.match(flow.Destination) }),
		terms(&f, "peer", t.Peer, ParsePeerFilter, func(p PeerFilter, flow *Flow) bool { return p.match(flow.Source) || p.match(flow.Destination) }),
		terms(&f, "verdict", t.Verdict, parseVerdict, func(v Verdict, flow *Flow) bool { return flow.Verdict == v }),
		terms(&f, "layer", t.Layer, parseLayer, func(l Layer, flow *Flow) bool { return flow.Layer == l }),
		terms(&f, "protocol", t.Protocol, parseProtocol, func(p protocol, flow *Flow) bool { return p(flow) }),
		terms(&f, "method", t.Method, parseText, func(m string, flow *Flow) bool {
			return flow.HTTP != nil && strings.EqualFold(flow.HTTP.Method, m)
		}),
		terms(&f, "status", t.Status, parseStatus, func(s statuses, flow *Flow) bool {
			return flow.HTTP != nil && s.first <= flow.HTTP.Status && flow.HTTP.Status <= s.last
		}),
		terms(&f, "path", t.Path, parsePath, func(p string, flow *Flow) bool { return flow.HTTP != nil && matchPath(p, flow.HTTP.Path) }),
		terms(&f, "query", t.Query, parseQuery, func(q string, flow *Flow) bool { return flow.DNS != nil && matchQuery(q, flow.DNS.Name) }),
		terms(&f, "label", t.Label, parseLabel, func(l label, flow *Flow) bool { return l.match(flow.Source) || l.match(flow.Destination) }),
	)
	return f, err
}

// Match reports whether the filter takes a flow.
func (f Filter) Match(flow *Flow) bool {
	if !f.since.IsZero() && flow.Time.Before(f.since) || !f.until.IsZero() && flow.Time.After(f.until) {
		return false
	}
	for _, test := range f.tests {
		if !test(flow) {
			return false
		}
	}
	return true
}

// And returns a filter that takes of the same flows those that a test takes.
func (f Filter) And(test func(*Flow) bool) Filter {
	f.tests = append(slices.Clip(f.tests), test)
	return f
}

// terms adds the test of a field to a filter.
func terms[T any](f *Filter, field string, values []string, parse func(string) (T, error), match func(T, *Flow) bool) error {
	if len(values) > maxTerms {
		return fmt.Errorf("%s: %d values; there may be %d", field, len(values), maxTerms)
	}
	var some, none []T
	for _, text := range values {
		text, not := strings.CutPrefix(text, "!")
		v, err := parse(text)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", field, err)
		case not:
			none = append(none, v)
		default:
			some = append(some, v)
		}
	}
	if len(values) == 0 {
		return nil
	}
	f.tests = append(f.tests, func(flow *Flow) bool {
		is := func(v T) bool { return match(v, flow) }
		return !slices.ContainsFunc(none, is) && (len(some) == 0 || slices.ContainsFunc(some, is))
	})
	return nil
}

func parseText(s string) (string, error) {
	if s == "" {
		return "", errors.New("a value is empty")
	}
	return s, nil
}

func parseVerdict(s string) (Verdict, error) {
	v, ok := ParseVerdict(s)
	if !ok {
		return v, fmt.Errorf("%s is neither forwarded, refused nor failed", quoted(s))
	}
	return v, nil
}

func parseLayer(s string) (Layer, error) {
	l, ok := ParseLayer(s)
	if !ok {
		return l, fmt.Errorf("%s is neither L4, L7 nor mTLS", quoted(s))
	}
	return l, nil
}

// protocol takes flows of a protocol.
type protocol func(*Flow) bool

func parseProtocol(s string) (protocol, error) {
	switch strings.ToUpper(s) {
	case "HTTP":
		return func(f *Flow) bool { return f.HTTP != nil }, nil
	case "DNS":
		return func(f *Flow) bool { return f.DNS != nil }, nil
	}
	var p model.Protocol
	if err := p.UnmarshalText([]byte(strings.ToUpper(s))); err != nil {
		return nil, fmt.Errorf("%s is neither TCP, UDP, HTTP nor DNS", quoted(s))
	}
	return func(f *Flow) bool { return f.Protocol == p }, nil
}

// statuses are the statuses of answers from first to last.
type statuses struct{ first, last int }

func parseStatus(s string) (statuses, error) {
	first, last, isRange := strings.Cut(s, "-")
	if class, ok := strings.CutSuffix(strings.ToLower(s), "xx"); ok {
		first, last, isRange = class+"00", class+"99", true
	}
	if !isRange {
		last = first
	}
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if err1 != nil || err2 != nil || a < 100 || b > 999 || a > b {
		return statuses{}, fmt.Errorf("%s is not a status such as 404, 5xx or 400-499", quoted(s))
	}
	return statuses{a, b}, nil
}

func parsePath(s string) (string, error) {
	if !strings.HasPrefix(s, "/") && s != "*" || strings.Contains(strings.TrimSuffix(s, "*"), "*") {
		return "", fmt.Errorf("%s is not a path such as /api, or /api/* for all below it", quoted(s))
	}
	return s, nil
}

// maxQuoted is how many characters of a value an error repeats.
const maxQuoted = 100

// quoted returns a value in quotes. One that is too long is cut, so that an error stays readable.
func quoted(s string) string {
	if len(s) > maxQuoted {
		s = fmt.Sprintf("%.*s…", maxQuoted, s)
	}
	return strconv.Quote(s)
}

func matchPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return path == pattern
}

// parseQuery reads a name, as DNS.Name is written, in lower case.
func parseQuery(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "." {
		name = s
	}
	if name == "" || strings.Contains(strings.TrimPrefix(name, "*."), "*") && name != "*" {
		return "", fmt.Errorf("%s is not a name such as example.com, or *.example.com for all below it", quoted(s))
	}
	return name, nil
}

func matchQuery(pattern, name string) bool {
	name = strings.ToLower(name)
	if pattern == "*" {
		return true
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(name, suffix)
	}
	return name == pattern
}

// label is a label of a pod, or with any value.
type label struct {
	key, value string
	any        bool
}

func parseLabel(s string) (label, error) {
	key, value, hasValue := strings.Cut(s, "=")
	if key == "" {
		return label{}, fmt.Errorf("%s is neither KEY=VALUE nor KEY", quoted(s))
	}
	return label{key, value, !hasValue}, nil
}

func (l label) match(p Peer) bool {
	v, ok := p.Labels[l.key]
	return ok && (l.any || v == l.value)
}
