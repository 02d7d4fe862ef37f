package controller

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

type eventList []*eventsv1.Event

func (l *eventList) CreateEvent(_ context.Context, e *eventsv1.Event) error {
	*l = append(*l, e)
	return nil
}

// TestEventsTellWhatBegins: what the status said already is not reported again, what works is not reported, and one reason is
// reported once.
func TestEventsTellWhatBegins(t *testing.T) {
	fails := func(kind, reason, message string) model.Condition {
		return model.Condition{Type: kind, Reason: reason, Message: message}
	}
	gw := &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "edge", UID: "u"}}
	gw.Status.Conditions = []metav1.Condition{
		{Type: "Programmed", Status: metav1.ConditionFalse, Reason: "AddressNotAssigned", Message: "old"},
		{Type: "Accepted", Status: metav1.ConditionUnknown, Reason: "Pending"},
	}
	want := &model.Status{
		Conditions: []model.Condition{
			fails("Programmed", "AddressNotAssigned", "old"), {Type: "Accepted", Status: true, Reason: "Accepted"},
		},
		Listeners: []model.ListenerStatus{
			{Name: "a", Conditions: []model.Condition{fails("ResolvedRefs", "InvalidCertificateRef", strings.Repeat("é", 2000))}},
			{Name: "b", Conditions: []model.Condition{fails("ResolvedRefs", "InvalidCertificateRef", "the same")}},
		},
	}
	var got eventList
	warn(t.Context(), &got, slog.New(slog.DiscardHandler), gw, want, time.Now())
	if len(got) != 1 {
		t.Fatalf("%d events, want one: %+v", len(got), got)
	}
	e := got[0]
	if e.Reason != "InvalidCertificateRef" || !strings.HasPrefix(e.Note, "listener a: é") || len(e.Note) > 1024 ||
		e.Regarding.Kind != "Gateway" || e.Regarding.APIVersion != "gateway.networking.k8s.io/v1" || e.Regarding.UID != "u" || e.Namespace != "ns" {
		t.Errorf("%+v", e)
	}
	if bad := validation.IsDNS1123Subdomain(e.Name); len(bad) > 0 {
		t.Errorf("name %s: %v", e.Name, bad)
	}
}

func TestEventsOfObjectsWithoutANamespace(t *testing.T) {
	class := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}}
	var got eventList
	want := &model.Status{Conditions: []model.Condition{{Type: "Accepted", Reason: "Invalid", Message: "m"}}}
	warn(t.Context(), &got, slog.New(slog.DiscardHandler), class, want, time.Now())
	if !slices.ContainsFunc(got, func(e *eventsv1.Event) bool { return e.Namespace == "default" && e.Regarding.Namespace == "" }) {
		t.Errorf("%+v", got)
	}
}

// TestEventsOfServices: a problem of a Service is told once while it lasts, and again when it comes back.
func TestEventsOfServices(t *testing.T) {
	db := state.NewDB()
	objs, st := kube.NewObjects(db), state.New(db)
	put := func(reason string) {
		w := st.Write(st.Statuses)
		defer w.Abort()
		s := &model.Status{Object: model.ObjectRef{Kind: "Service", Namespace: "ns", Name: "web"}}
		if st.Statuses.Delete(w, s.Key()); reason != "" {
			s.Conditions = []model.Condition{{Type: "Accepted", Reason: reason, Message: "m"}}
			st.Statuses.Put(w, s)
		}
		w.Commit()
	}
	w := objs.Write()
	if err := objs.Put(w, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u"}}); err != nil {
		t.Fatal(err)
	}
	w.Commit()
	var got eventList
	n := newNotices(objs, st, &got, slog.New(slog.DiscardHandler))
	for i, step := range []struct {
		reason string
		events int
	}{{"OverBudget", 1}, {"OverBudget", 1}, {"", 1}, {"OverBudget", 2}, {"TooMany", 3}} {
		put(step.reason)
		if err := n.sync(t.Context(), "ns/web"); err != nil {
			t.Fatal(err)
		}
		if len(got) != step.events {
			t.Fatalf("step %d: %d events, want %d", i, len(got), step.events)
		}
	}
	if e := got[0]; e.Regarding.Kind != "Service" || e.Regarding.APIVersion != "v1" || e.Reason != "OverBudget" || e.Regarding.UID != "u" {
		t.Errorf("%+v", e)
	}
}
