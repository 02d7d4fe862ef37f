package controller

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
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
