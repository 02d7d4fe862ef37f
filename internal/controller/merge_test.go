package controller

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

var (
	before = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	now    = metav1.NewTime(time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
)

func cond(kind string, status metav1.ConditionStatus, reason string, generation int64, at metav1.Time) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, ObservedGeneration: generation, LastTransitionTime: at}
}

func TestMergeConditions(t *testing.T) {
	accepted := []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	for _, c := range []struct {
		name       string
		have, want []metav1.Condition
		ours       []model.Condition
	}{
		{"first", nil, []metav1.Condition{cond("Accepted", "True", "Accepted", 2, now)}, accepted},
		{"the default of the schema",
			[]metav1.Condition{cond("Accepted", "Unknown", "Pending", 0, metav1.Time{}), cond("Programmed", "Unknown", "Pending", 0, metav1.Time{})},
			[]metav1.Condition{cond("Accepted", "True", "Accepted", 2, now)}, accepted},
		{"the same status keeps its time",
			[]metav1.Condition{cond("Accepted", "True", "Old", 1, before)},
			[]metav1.Condition{cond("Accepted", "True", "Accepted", 2, before)}, accepted},
		{"another status has a new time",
			[]metav1.Condition{cond("Accepted", "False", "Invalid", 1, before)},
			[]metav1.Condition{cond("Accepted", "True", "Accepted", 2, now)}, accepted},
		{"others' stay in place, ours that are not wanted go",
			[]metav1.Condition{cond("a.example/X", "True", "X", 1, before), cond("PartiallyInvalid", "True", "Y", 1, before), cond("Accepted", "True", "Accepted", 1, before), cond("Z", "True", "Z", 1, before)},
			[]metav1.Condition{cond("a.example/X", "True", "X", 1, before), cond("Accepted", "True", "Accepted", 2, before), cond("Z", "True", "Z", 1, before)}, accepted},
	} {
		if d := cmp.Diff(c.want, mergeConditions(c.have, c.ours, 2, now)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// TestEveryConditionOfOursIsRemoved when it is not wanted any more, on whatever object it is.
func TestEveryConditionOfOursIsRemoved(t *testing.T) {
	theirs := cond("other.example/Ready", "True", "Ready", 1, before)
	for _, kind := range model.ConditionTypes {
		have := []metav1.Condition{theirs, cond(kind, "True", "Old", 1, before)}
		if got := mergeConditions(have, nil, 2, now); len(got) != 1 || got[0] != theirs {
			t.Errorf("%s: %v is left", kind, got)
		}
	}
}

func testRoute(status ...gwv1.RouteParentStatus) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r", Generation: 2, ResourceVersion: "7"}}
	section := gwv1.SectionName("http")
	r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gw", SectionName: &section}, {Name: "gw"}}
	r.Status.Parents = status
	return r
}

func TestPatchOfRoute(t *testing.T) {
	m := merger{controller: "us", now: now}
	gw := model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "ns", Name: "gw"}
	good := []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	want := &model.Status{Generation: 2, Parents: []model.ParentStatus{
		{Parent: gw, SectionName: "http", Conditions: good}, {Parent: gw, Conditions: good},
	}}
	refs := testRoute().Spec.ParentRefs
	ours := func(ref gwv1.ParentReference) gwv1.RouteParentStatus {
		return gwv1.RouteParentStatus{ParentRef: ref, ControllerName: "us", Conditions: []metav1.Condition{cond("Accepted", "True", "Accepted", 2, before)}}
	}
	other := gwv1.RouteParentStatus{ParentRef: refs[1], ControllerName: "other", Conditions: []metav1.Condition{cond("Accepted", "False", "No", 1, before)}}
	for _, c := range []struct {
		name  string
		route *gwv1.HTTPRoute
		want  *model.Status
		out   []gwv1.RouteParentStatus // nil: nothing is written
	}{
		{"as it is", testRoute(ours(refs[0]), other, ours(refs[1])), want, nil},
		{"one is missing", testRoute(other, ours(refs[1])), want, []gwv1.RouteParentStatus{other, ours(refs[1]), withTime(ours(refs[0]), now)}},
		{"no parent of ours any more", testRoute(ours(refs[0]), other), nil, []gwv1.RouteParentStatus{other}},
		{"never one of ours", testRoute(other), nil, nil},
		{"nothing at all", testRoute(), nil, nil},
		{"not resolved", testRoute(other), &model.Status{Generation: 2, Parents: []model.ParentStatus{{Parent: gw, Unresolved: true, Conditions: good}}}, nil},
		{"not resolved any more", testRoute(ours(refs[0]), other), &model.Status{Generation: 2, Parents: []model.ParentStatus{{Parent: gw, SectionName: "http", Unresolved: true, Conditions: good}}}, []gwv1.RouteParentStatus{other}},
		{"of another generation", testRoute(), &model.Status{Generation: 1, Parents: want.Parents}, nil},
	} {
		b, err := m.patch(c.route, c.want)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.out == nil {
			if b != nil {
				t.Errorf("%s: writes %s", c.name, b)
			}
			continue
		}
		var got struct {
			Metadata metav1.ObjectMeta
			Status   gwv1.HTTPRouteStatus
		}
		if err := json.Unmarshal(b, &got); err != nil || got.Metadata.ResourceVersion != "7" {
			t.Errorf("%s: %v, resourceVersion %q: %s", c.name, err, got.Metadata.ResourceVersion, b)
		}
		if d := cmp.Diff(c.out, got.Status.Parents, cmp.Comparer(func(a, b metav1.Time) bool { return a.Equal(&b) })); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		// What was written is what is wanted: nothing more is.
		c.route.Status.Parents = got.Status.Parents
		if b, err := m.patch(c.route, c.want); b != nil || err != nil {
			t.Errorf("%s: writes again %s, %v", c.name, b, err)
		}
	}
}

func withTime(p gwv1.RouteParentStatus, at metav1.Time) gwv1.RouteParentStatus {
	p.Conditions[0].LastTransitionTime = at
	return p
}

func TestPatchOfGateway(t *testing.T) {
	m := merger{controller: "us", now: now}
	gw := &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: "gw", Generation: 1, ResourceVersion: "3"}}
	gw.Status.Listeners = []gwv1.ListenerStatus{{Name: "gone"}}
	yes := []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	want := &model.Status{
		Generation: 1, Conditions: yes, Addresses: []string{"192.0.2.1"},
		Listeners: []model.ListenerStatus{{Name: "http", SupportedKinds: []string{"HTTPRoute"}, AttachedRoutes: 3, Conditions: yes}},
	}
	b, err := m.patch(gw, want)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Status gwv1.GatewayStatus }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	l := got.Status.Listeners
	if len(l) != 1 || l[0].Name != "http" || l[0].AttachedRoutes != 3 || len(l[0].SupportedKinds) != 1 || got.Status.Addresses[0].Value != "192.0.2.1" {
		t.Errorf("patch is %s", b)
	}
	gw.Status = got.Status
	if b, err := m.patch(gw, want); b != nil || err != nil {
		t.Errorf("writes again %s, %v", b, err)
	}
	if b, err := m.patch(gw, nil); b != nil || err != nil {
		t.Errorf("a Gateway of others is written: %s, %v", b, err)
	}
	want.Addresses = nil
	if b, _ = m.patch(gw, want); string(b) != `{"metadata":{"resourceVersion":"3"},"status":{"addresses":[]}}` {
		t.Errorf("to take the addresses away, the patch is %s", b)
	}
}

// TestPatchOfListenerSets: a Gateway's count of them is not written to CRDs that drop it, as those that know no ListenerSets do.
func TestPatchOfListenerSets(t *testing.T) {
	m := merger{controller: "us", now: now}
	yes := []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	set := &gwv1.ListenerSet{ObjectMeta: metav1.ObjectMeta{Name: "set", Generation: 1, ResourceVersion: "3"}}
	set.Status.Conditions = []metav1.Condition{cond("Accepted", "Unknown", "Pending", 0, before)}
	want := &model.Status{
		Generation: 1, Conditions: yes,
		Listeners: []model.ListenerStatus{{Name: "http", SupportedKinds: []string{"HTTPRoute"}, AttachedRoutes: 3, Conditions: yes}},
	}
	b, err := m.patch(set, want)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Status gwv1.ListenerSetStatus }
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	l := got.Status.Listeners
	if len(l) != 1 || l[0].AttachedRoutes != 3 || len(l[0].SupportedKinds) != 1 || len(l[0].Conditions) != 1 || got.Status.Conditions[0].Status != "True" {
		t.Errorf("patch is %s", b)
	}
	set.Status = got.Status
	if b, err := m.patch(set, want); b != nil || err != nil {
		t.Errorf("writes again %s, %v", b, err)
	}

	gw := &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: "gw", ResourceVersion: "3"}}
	for _, step := range []struct {
		have  *int32
		count int
		patch string
	}{
		{nil, 0, ""},
		{nil, 2, `{"metadata":{"resourceVersion":"3"},"status":{"attachedListenerSets":2}}`},
		{new(int32(2)), 2, ""},
		{new(int32(2)), 0, `{"metadata":{"resourceVersion":"3"},"status":{"attachedListenerSets":0}}`},
	} {
		gw.Status.AttachedListenerSets = step.have
		if b, err := m.patch(gw, &model.Status{AttachedListenerSets: step.count}); string(b) != step.patch || err != nil {
			t.Errorf("%d attached: patch is %s, %v, want %s", step.count, b, err, step.patch)
		}
	}
}
