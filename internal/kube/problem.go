package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Problem is an object, or a part of the source, that could not be read. The source writes it as a row of
// Objects.Problems, and deletes the row when the problem is solved.
type Problem struct {
	File string // below the folder; "kubernetes" for an object of an API server, "controller" for what the controller sends
	Line int    // from 1; 0 is the whole file
	// Object is empty if the text does not say which object it is.
	Object model.ObjectRef
	Reason string
}

// String returns file:line: object: reason.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
	}
	if p.Object.Kind != "" {
		s += ": " + p.Object.String()
	}
	return s + ": " + p.Reason
}

// Key distinguishes the problem from all others.
func (p *Problem) Key() string { return p.Object.Group + " " + p.String() }

// Longest texts of a problem, in bytes. No valid name is longer (RFC 1123 subdomains); a reason may quote what was written.
const (
	maxName   = 253
	maxReason = 2048
)

// Bounded returns the problem with texts of bounded length: they are whatever somebody wrote, and are the row's key.
func (p Problem) Bounded() Problem {
	for _, s := range []*string{&p.Object.Group, &p.Object.Kind, &p.Object.Namespace, &p.Object.Name} {
		*s = cut(*s, maxName)
	}
	p.Reason = cut(p.Reason, maxReason)
	return p
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// ProblemsOf returns the problems of one object, or, without a name, of a kind as a whole.
func (o *Objects) ProblemsOf(s *state.Snapshot, r model.ObjectRef) []*Problem {
	return slices.Collect(o.Problems.By(s, ByObject, problemObject(r)))
}

// AllProblems returns all problems, sorted by file, line, object and reason.
func (o *Objects) AllProblems(s *state.Snapshot) []Problem {
	out := []Problem{}
	for p := range o.Problems.All(s) {
		out = append(out, *p)
	}
	slices.SortFunc(out, compareProblems)
	return out
}

func compareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Object.Kind, b.Object.Kind),
		cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name), cmp.Compare(a.Reason, b.Reason))
}

func problemObject(r model.ObjectRef) string { return r.Group + " " + r.String() }
