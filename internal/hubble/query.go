package hubble

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Query is a request for flows that was understood.
type Query struct {
	Filter       Filter
	Since, Until time.Time // inclusive; zero is no bound
	Number       int       // 0 is all that are kept
	First        bool      // the first and not the last ones
	Follow       bool
	Scope        Scope
	mask         mask
}

// Scope is whose flows may be seen: all, or those with an end in one of the namespaces.
type Scope struct {
	All        bool
	Namespaces []string // sorted
}

// Allows reports whether flows of a namespace may be seen.
func (s Scope) Allows(namespace string) bool {
	if s.All {
		return true
	}
	_, ok := slices.BinarySearch(s.Namespaces, namespace)
	return ok && namespace != ""
}

// Equal reports whether two scopes are the same.
func (s Scope) Equal(o Scope) bool { return s.All == o.All && slices.Equal(s.Namespaces, o.Namespaces) }

// Shows reports whether a flow may be seen.
func (s Scope) Shows(f *flowpb.Flow) bool {
	return s.All || s.Allows(f.GetSource().GetNamespace()) || s.Allows(f.GetDestination().GetNamespace())
}

// Any returns the form that a request has for a scope, in GetFlowsRequest.extensions; nil for all.
func (s Scope) Any() (*anypb.Any, error) {
	if s.All {
		return nil, nil
	}
	list := &structpb.ListValue{}
	for _, ns := range s.Namespaces {
		list.Values = append(list.Values, structpb.NewStringValue(ns))
	}
	return anypb.New(list)
}

// scopeOf is the inverse of Any.
func scopeOf(a *anypb.Any) (Scope, error) {
	if a == nil {
		return Scope{All: true}, nil
	}
	var list structpb.ListValue
	if err := a.UnmarshalTo(&list); err != nil {
		return Scope{}, fmt.Errorf("extensions: %w", err)
	}
	var s Scope
	for _, v := range list.Values {
		s.Namespaces = append(s.Namespaces, v.GetStringValue())
	}
	slices.Sort(s.Namespaces)
	return s, nil
}

// NewQuery reads a request. An error names the field.
func NewQuery(r *observerpb.GetFlowsRequest) (*Query, error) {
	q := &Query{First: r.GetFirst(), Follow: r.GetFollow(), Number: int(min(r.GetNumber(), math.MaxInt32))}
	var err error
	if len(r.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("a field of a later version of the API than this server's")
	}
	if q.First && q.Follow {
		return nil, errors.New("first: not together with follow")
	}
	if q.Until, err = moment("until", r.GetUntil()); err != nil {
		return nil, err
	}
	if q.Since, err = moment("since", r.GetSince()); err != nil {
		return nil, err
	}
	if q.Follow && !q.Until.IsZero() {
		return nil, errors.New("until: not together with follow")
	}
	if q.Filter, err = NewFilter(r.GetWhitelist(), r.GetBlacklist()); err != nil {
		return nil, err
	}
	if q.mask, err = newMask(r.GetFieldMask()); err != nil {
		return nil, fmt.Errorf("field_mask: %w", err)
	}
	return q, nil
}

func moment(field string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", field, err)
	}
	return t.AsTime(), nil
}

// Masked leaves of a flow what the request asks for.
func (q *Query) Masked(f *flowpb.Flow) *flowpb.Flow { return q.mask.apply(f) }

// history reports whether the query asks for flows that were there before it.
func (q *Query) history() bool { return !q.Follow || q.Number > 0 || !q.Since.IsZero() }
