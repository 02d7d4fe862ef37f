package explain

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// hidden is the reason where the reader may not see what decides.
const hidden = "what decides is of a namespace of which you may not list config.weft.io"

// For returns what a reader may see of an answer, if he may see both the source's namespace and the destination's. sees reports
// whether he may see a namespace. Where an object of another namespace decides, the verdict is all that is left. Endpoints of other
// namespaces become one, of which the verdict is left and the share.
func (a *Answer) For(sees func(namespace string) bool) *Answer {
	for _, ns := range a.decidedIn {
		if !sees(ns) {
			return &Answer{From: a.From, Node: a.Node, Local: a.Local, To: a.To, Verdict: a.Verdict, Why: hidden}
		}
	}
	out := *a
	out.Ends, out.Notes = nil, a.Notes
	var others []End
	for _, end := range a.Ends {
		if end.seenBy(sees) {
			out.Ends = append(out.Ends, end)
		} else {
			others = append(others, end)
		}
	}
	if len(others) == 0 {
		return &out
	}
	out.Ends = append(out.Ends, together(others, hidden))
	out.Notes = nil // Judge takes over those of the ends that are left
	for _, n := range a.Notes {
		if !notedBy(others, n) {
			out.Notes = append(out.Notes, n)
		}
	}
	if out.Route == nil && !slices.ContainsFunc(out.Ends, func(e End) bool { return e.ByRequest }) {
		out.Request, out.Assumed = nil, false
	}
	out.Judge()
	return &out
}

// seenBy reports whether a reader may see an end: its pod, and the Service that leads there.
func (e *End) seenBy(sees func(namespace string) bool) bool {
	for _, key := range []string{e.Service, e.Workload} {
		if ns, _ := model.SplitKey(key); key != "" && !sees(ns) {
			return false
		}
	}
	return true
}

func notedBy(ends []End, note string) bool {
	for i := range ends {
		for _, n := range ends[i].Notes {
			if n == note {
				return true
			}
		}
	}
	return false
}

// together returns one end in place of several, which says no more than their verdict.
func together(ends []End, why string) End {
	out := End{Decision: Decision{Verdict: ends[0].Verdict, Why: why}}
	for _, e := range ends {
		out.Share += e.Share
		if e.Verdict != out.Verdict {
			out.Verdict = Partly
		}
	}
	return out
}

// Limit leaves the first ends; those beyond become one.
func (a *Answer) Limit(ends int) {
	if len(a.Ends) > ends {
		a.Ends = append(a.Ends[:ends:ends], together(a.Ends[ends:], "there are more endpoints than an answer has room for"))
	}
}
