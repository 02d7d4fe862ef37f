package controller

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/observe"
)

// refusedReason is that of the Events of refused connections.
const refusedReason = "Refused"

// maxRefusalText bounds the reason with the policies in an Event's text, in bytes.
const maxRefusalText = 512

// refusalEvent returns the Event of a refusal, of which f is the first.
func refusalEvent(pod *corev1.Pod, key refusal, f *observe.Flow, now time.Time) (*eventsv1.Event, error) {
	ev, err := warning(pod, failure{reason: refusedReason, message: refusalText(key, f)}, now)
	if err != nil {
		return nil, err
	}
	ev.Name, ev.Action = nameStart(pod.Name)+"."+key.hash()+"."+lower(refusedReason), "Refuse"
	return ev, nil
}

// refusalText says what is refused and why. Who may read Events of a namespace need not be allowed to see its flows: so pods
// of other namespaces are not named, as the flows API would.
func refusalText(key refusal, f *observe.Flow) string {
	if key.side == observe.AtSource {
		return fmt.Sprintf("The mesh refuses connections of this pod: %s. The first was to %s.", key.reason, nodereport.Printable(calledName(key.namespace, &f.Destination), 300))
	}
	return fmt.Sprintf("The mesh refuses connections to this pod: %s. The first was to port %d, from %s.", key.reason, f.Destination.Address.Port(),
		nodereport.Printable(callerName(key.namespace, &f.Source), 300))
}

// callerName names the source of a flow to readers of a namespace: a pod of it, the namespace of another, or an address.
func callerName(namespace string, p *observe.Peer) string {
	switch ns := p.Namespace(); {
	case ns == "":
		return "address " + p.Address.Addr().String()
	case ns != namespace:
		return "namespace " + ns
	case p.Workload != "":
		return "pod " + p.Workload
	}
	return "this namespace"
}

// calledName names the destination of a flow to readers of a namespace: the Service that was asked for, a pod of the
// namespace, or the address that the caller knew.
func calledName(namespace string, p *observe.Peer) string {
	port := strconv.Itoa(int(p.Address.Port()))
	if p.Service != "" {
		return "Service " + p.Service + ", port " + port
	}
	if ns, _ := model.SplitKey(p.Workload); p.Workload != "" && ns == namespace {
		return "pod " + p.Workload + ", port " + port
	}
	return "address " + p.Address.String()
}

// hash is the part of the Event's name that tells it from others of the pod.
func (r refusal) hash() string {
	h := fnv.New64a()
	for _, part := range []string{r.namespace, r.pod, string(r.uid), string(r.side), r.reason} {
		_, _ = h.Write([]byte(part + "\x00")) // it cannot fail
	}
	return strconv.FormatUint(h.Sum64(), 16)
}
