package analyze

import (
	"cmp"
	"slices"
	"strings"

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

// Unreadable is the number of documents that are not taken.
func (m *Mesh) Unreadable() int {
	type document struct {
		file   string
		line   int // where no object is known
		object model.ObjectRef
	}
	seen := map[document]bool{}
	for _, p := range m.files.Problems {
		d := document{file: p.File, object: p.Object}
		if p.Object == (model.ObjectRef{}) {
			d.line = p.Line
		}
		seen[d] = true
	}
	return len(seen)
}

func (m *Mesh) badDocuments() []Finding {
	var out []Finding
	for _, p := range m.files.Problems {
		out = append(out, Finding{Code: CodeManifest, Severity: Error, File: p.File, Line: p.Line, Object: p.Object, Message: p.Reason})
	}
	return out
}

// serviceMeant adds to "there is no such Gateway" that there is a Service of the name: kind and group of a parentRef are those
// of a Gateway unless they are written.
func (m *Mesh) serviceMeant(list []Finding) {
	snap := m.st.Snapshot()
	for i := range list {
		f := &list[i]
		rest, isGateway := strings.CutPrefix(f.For, "Gateway/")
		if f.Code != "NoMatchingParent" || !isGateway {
			continue
		}
		key, _, _ := strings.Cut(rest, " ")
		if _, ok := m.objs.Gateways.Get(snap, key); ok {
			continue
		}
		if _, ok := m.objs.Services.Get(snap, key); ok {
			f.Message += "; there is a Service of this name, whose parentRef has group: \"\" and kind: Service"
		}
	}
}

// failing are the conditions that a cluster would show. What stands in for a bad document has none of interest. Conditions of
// one listener or parent that say the same are one finding.
func (m *Mesh) failing() []Finding {
	var out []Finding
	for s := range m.st.Statuses.All(m.st.Snapshot()) {
		if _, read := m.files.Where[s.Object]; !read {
			continue
		}
		type cause struct{ of, reason, message string }
		types := map[cause][]string{}
		var causes []cause
		for _, f := range s.Failures() {
			c := cause{f.For, f.Reason, f.Message}
			if types[c] == nil {
				causes = append(causes, c)
			}
			types[c] = append(types[c], f.Type)
		}
		for _, c := range causes {
			out = append(out, Finding{Code: c.reason, Severity: Error, Object: s.Object, For: c.of, Message: strings.Join(types[c], ", ") + ": " + c.message})
		}
	}
	m.serviceMeant(out)
	return out
}
