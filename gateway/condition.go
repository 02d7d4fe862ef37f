package gateway

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func yes(kind, reason string) model.Condition {
	return model.Condition{Type: kind, Status: true, Reason: reason}
}

func no(kind, reason, message string) model.Condition {
	return model.Condition{Type: kind, Reason: reason, Message: message}
}

// problems collects what is wrong with one object: the first reason, all messages.
type problems struct {
	reason   string
	messages []string
}

// maxMessages bounds a condition's message; who mends the first will see the rest.
const maxMessages = 8

func (t *problems) add(reason, message string) {
	if t.reason == "" {
		t.reason = reason
	}
	for _, m := range t.messages {
		if m == message {
			return
		}
	}
	if len(t.messages) < maxMessages {
		t.messages = append(t.messages, message)
	}
}

func (t *problems) ok() bool { return t.reason == "" }

// condition is true with the reason good, or false with what was collected.
func (t *problems) condition(kind, good string) model.Condition {
	if t.ok() {
		return yes(kind, good)
	}
	return no(kind, t.reason, strings.Join(t.messages, "; "))
}

// problem puts an object's failed conditions into one line; "" if there are none.
func problem(s *model.Status) string {
	if s == nil {
		return ""
	}
	var out []string
	collect := func(of string, conds []model.Condition) {
		for _, c := range conds {
			if c.Fails() && len(out) < maxMessages {
				out = append(out, of+c.Type+": "+c.Reason+": "+c.Message)
			}
		}
	}
	collect("", s.Conditions)
	for _, p := range s.Parents {
		collect(p.Parent.String()+": ", p.Conditions)
	}
	for _, l := range s.Listeners {
		collect("listener "+l.Name+": ", l.Conditions)
	}
	return strings.Join(out, "; ")
}

// maxNamedNodes bounds how many nodes a condition names.
const maxNamedNodes = 3

// rejected returns what Envoy said about resources that come from a generation of an object, or "".
func (v *view) rejected(ref model.ObjectRef, generation int64) string {
	return v.rejectedOf(ref, generation, func(string) bool { return true })
}

// rejectedOf is rejected for those resources, as type/name, that concerned reports. What Envoys of several nodes said is told once.
func (v *view) rejectedOf(ref model.ObjectRef, generation int64, concerned func(resource string) bool) string {
	type refusal struct{ resource, message string }
	nodes := map[refusal][]string{}
	for r := range v.st.Rejections.By(v.Snapshot, state.ByObject, ref.String()) {
		if !r.OverBudget() && concerned(r.Resource) && slices.ContainsFunc(r.Objects, func(o model.ObjectVersion) bool { return o.ObjectRef == ref && o.Matches(generation) }) {
			f := refusal{r.Resource, r.Message}
			nodes[f] = append(nodes[f], r.Node)
		}
	}
	refusals := slices.SortedFunc(maps.Keys(nodes), func(a, b refusal) int {
		return cmp.Or(strings.Compare(a.resource, b.resource), strings.Compare(a.message, b.message))
	})
	var out []string
	for _, f := range refusals[:min(len(refusals), maxMessages)] {
		out = append(out, "Envoy"+ofNodes(nodes[f])+" refused "+f.resource+": "+f.message)
	}
	return strings.Join(out, "; ")
}

// ofNodes names the nodes of Envoys. It does not count those that it leaves out: each that joins would change the text.
func ofNodes(nodes []string) string {
	if nodes[0] == "" {
		return ""
	}
	slices.Sort(nodes)
	text := " of node " + strings.Join(nodes[:min(len(nodes), maxNamedNodes)], ", ")
	if len(nodes) > maxNamedNodes {
		text += " and others"
	}
	return text
}

// overBudget returns on which nodes what an object has more of than its share is not sent to Envoy, and why, or "".
func (v *view) overBudget(ref model.ObjectRef) string {
	var nodes []string
	message := ""
	for r := range v.st.Rejections.By(v.Snapshot, state.ByObject, ref.String()) {
		if r.OverBudget() {
			nodes, message = append(nodes, r.Node), r.Message
		}
	}
	if message == "" {
		return ""
	}
	return "Envoy" + ofNodes(nodes) + ": " + message
}

// objectStatus is the status of an object that is only worth one when something is wrong with it.
func (v *view) objectStatus(ref model.ObjectRef, generation int64, t *problems) []output {
	if m := v.rejected(ref, generation); m != "" {
		t.add("Invalid", m)
	}
	if m := v.overBudget(ref); m != "" {
		t.add("OverBudget", m)
	}
	if t.ok() {
		return nil
	}
	return []output{v.status(&model.Status{
		Object: ref, Generation: generation, Conditions: []model.Condition{t.condition(model.ConditionAccepted, "Accepted")},
	})}
}
