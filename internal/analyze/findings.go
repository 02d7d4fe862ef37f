package analyze

import (
	"cmp"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// Severity says how bad a finding is.
type Severity string

// An error is something that is not served, or not as written. A warning is something that is served and hardly meant.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// CodeManifest is the code of documents that are not taken.
const CodeManifest = "Manifest"

// Finding is one thing that is wrong.
type Finding struct {
	// Code is CodeManifest, the reason of a condition as the Gateway API names it, or one of lint.go.
	Code     string          `json:"code"`
	Severity Severity        `json:"severity"`
	File     string          `json:"file,omitempty"`
	Line     int             `json:"line,omitempty"` // from 1; 0 is the whole file
	Object   model.ObjectRef `json:"object,omitzero"`
	// For is the listener or the parent that the finding is about; "" is the object itself.
	For     string `json:"for,omitempty"`
	Message string `json:"message"`
}

// Findings returns all that is wrong, by file and line.
func (m *Mesh) Findings() []Finding {
	out := slices.Concat(m.badDocuments(), m.unread(), m.failing(), m.lint())
	for i := range out {
		if f := &out[i]; f.File == "" {
			at := m.files.Where[f.Object]
			f.File, f.Line = at.File, at.Line
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Code, b.Code), cmp.Compare(a.For, b.For))
	})
	return out
}

func (m *Mesh) badDocuments() []Finding {
	var out []Finding
	for _, p := range m.files.Problems {
		out = append(out, Finding{Code: CodeManifest, Severity: Error, File: p.File, Line: p.Line, Object: p.Object, Message: p.Reason})
	}
	return out
}

// failing are the conditions that a cluster would show. What stands in for a bad document has none of interest.
func (m *Mesh) failing() []Finding {
	var out []Finding
	for s := range m.st.Statuses.All(m.st.Snapshot()) {
		if _, read := m.files.Where[s.Object]; !read {
			continue
		}
		for _, f := range s.Failures() {
			out = append(out, Finding{Code: f.Reason, Severity: Error, Object: s.Object, For: f.For, Message: f.Type + ": " + f.Message})
		}
	}
	m.serviceMeant(out)
	return out
}
