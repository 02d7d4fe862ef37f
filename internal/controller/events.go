package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// eventCreator makes events; *cluster.Cluster does.
type eventCreator interface {
	CreateEvent(ctx context.Context, event *eventsv1.Event) error
}

// failure is a condition that says that something does not work, with the listener or parent that it is of.
type failure struct{ of, kind, reason, message string }

// failures lists those of a status. One reason is reported once for each object: a Gateway's listeners often share one.
func failures(s *model.Status) []failure {
	var out []failure
	reasons := map[string]bool{}
	add := func(of string, conditions []model.Condition) {
		for _, c := range conditions {
			if c.Fails() && !reasons[c.Reason] {
				reasons[c.Reason] = true
				out = append(out, failure{of, c.Type, c.Reason, c.Message})
			}
		}
	}
	add("", s.Conditions)
	for _, l := range s.Listeners {
		add("listener "+l.Name+": ", l.Conditions)
	}
	for _, p := range s.Parents {
		if p.Unresolved { // no condition of it is written, so nothing would say that the event was made
			continue
		}
		add(p.String()+": ", p.Conditions)
	}
	return out
}

// conditionsOf lists the conditions that an object's status has now, by type, reason and message.
func conditionsOf(obj metav1.Object) map[[3]string]bool {
	out := map[[3]string]bool{}
	add := func(conditions []metav1.Condition) {
		for _, c := range conditions {
			fails := model.Condition{Type: c.Type, Status: c.Status == metav1.ConditionTrue}.Fails()
			if fails && c.Status != metav1.ConditionUnknown {
				out[[3]string{c.Type, c.Reason, c.Message}] = true
			}
		}
	}
	switch o := obj.(type) {
	case *gwv1.Gateway:
		add(o.Status.Conditions)
		for _, l := range o.Status.Listeners {
			add(l.Conditions)
		}
	case *gwv1.ListenerSet:
		add(o.Status.Conditions)
		for _, l := range o.Status.Listeners {
			add(l.Conditions)
		}
	case *gwv1.GatewayClass:
		add(o.Status.Conditions)
	case *weftv1.AuthorizationPolicy:
		add(o.Status.Conditions)
	case *weftv1.AddressPool:
		add(o.Status.Conditions)
	default:
		entries, _ := ancestorsOf(obj)
		for _, a := range entries {
			if a.ControllerName == gateway.ControllerName {
				add(a.Conditions)
			}
		}
		if _, status, ok := kube.Route(obj); ok {
			for _, p := range status.Parents {
				if p.ControllerName == gateway.ControllerName {
					add(p.Conditions)
				}
			}
		}
	}
	return out
}

// warn tells by events what fails in a status that was just written and did not fail in the one before. An event that
// cannot be made is only logged: the condition says the same.
func warn(ctx context.Context, events eventCreator, log *slog.Logger, obj metav1.Object, want *model.Status, now time.Time) {
	before := conditionsOf(obj)
	for _, f := range failures(want) {
		if before[[3]string{f.kind, f.reason, f.message}] {
			continue
		}
		e, err := warning(obj, f, now)
		if err == nil {
			err = events.CreateEvent(ctx, e)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("failed to write an Event", "object", want.Object, "reason", f.reason, "error", err)
		}
	}
}

// warning is the event about a failure. Objects of the cluster have theirs in the namespace default, as all do.
func warning(obj metav1.Object, f failure, now time.Time) (*eventsv1.Event, error) {
	kinds, _, err := kube.Scheme().ObjectKinds(obj.(runtime.Object))
	if err != nil {
		return nil, fmt.Errorf("kind of %T: %w", obj, err)
	}
	namespace := obj.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			// A name of its own for each: they are no longer than an object's, and end with the time.
			Namespace: namespace, Name: nameStart(obj.GetName()) + "." + strconv.FormatInt(now.UnixNano(), 16) + "." + lower(f.reason),
		},
		EventTime: metav1.NewMicroTime(now), Type: corev1.EventTypeWarning, Reason: cut(f.reason, 128), Action: "Translate",
		Note: cut(f.of+f.message, 1024), ReportingController: gateway.ControllerName, ReportingInstance: "weft-controller",
		Regarding: corev1.ObjectReference{
			APIVersion: kinds[0].GroupVersion().String(), Kind: kinds[0].Kind,
			Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		},
	}, nil
}

// cut shortens a text to so many bytes, which the API takes, between characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// nameStart is an object's name, or as much of it as leaves room in another's. Each part of a name between dots must end with a
// letter or a digit (RFC 1123).
func nameStart(name string) string { return strings.TrimRight(cut(name, 200), "-.") }

// lower makes a part of an object's name of a reason.
func lower(reason string) string {
	b := []byte(cut(reason, 30))
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c < 'a' || c > 'z':
			b[i] = 'x'
		}
	}
	return string(b)
}
