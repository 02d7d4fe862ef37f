package traffic

import (
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// End is one end of traffic. Fields that are not known are empty.
type End struct {
	Namespace string
	Owner     model.Owner
	// Identity is the one that was proven on the connection, "" where nothing was.
	Identity model.Identity
}

// Labels are what traffic is counted by.
type Labels struct {
	// Reporter is the end that counts: source, destination or gateway. Where both ends are in the mesh, each counts.
	Reporter            string
	Source, Destination End
	// Service is the namespace/name of the Service that was asked for, or whose backend a route chose.
	Service string
	MTLS    bool
}

// Reporters.
const (
	AtSource      = string(observe.AtSource)
	AtDestination = string(observe.AtDestination)
	AtGateway     = "gateway"
)

// Names in place of what is not known, and of what found no room.
const (
	Unknown  = "unknown"
	Overflow = "overflow"
)

// namespace is that of the end that counts: its tenant's share is used up by the set.
func (l *Labels) namespace() string {
	if l.Reporter == AtDestination {
		return l.Destination.Namespace
	}
	return l.Source.Namespace
}

// overflow returns the set for what finds no room.
func (l *Labels) overflow() Labels {
	end := End{Namespace: Overflow, Owner: model.Owner{Kind: Overflow, Name: Overflow}}
	return Labels{Reporter: l.Reporter, Source: end, Destination: end, Service: Overflow + "/" + Overflow, MTLS: l.MTLS}
}

// labelNames are the names of values.
var labelNames = []string{
	"reporter", "source_workload", "source_kind", "source_namespace", "source_identity",
	"destination_workload", "destination_kind", "destination_namespace", "destination_identity",
	"destination_service", "destination_service_namespace", "mtls",
}

func (l *Labels) values(more ...string) []string {
	ns, name := model.SplitKey(l.Service)
	mtls := "false"
	if l.MTLS {
		mtls = "true"
	}
	values := append([]string{
		l.Reporter,
		or(l.Source.Owner.Name), or(l.Source.Owner.Kind), or(l.Source.Namespace), string(l.Source.Identity),
		or(l.Destination.Owner.Name), or(l.Destination.Owner.Kind), or(l.Destination.Namespace), string(l.Destination.Identity),
		or(name), or(ns), mtls,
	}, more...)
	// Some come from a peer's certificate. Prometheus' client panics where a value is not UTF-8.
	for i, v := range values {
		values[i] = strings.ToValidUTF8(v, "?")
	}
	return values
}

func or(s string) string {
	if s == "" {
		return Unknown
	}
	return s
}

// labelsOf returns what a flow is counted by.
func labelsOf(st *state.State, f *observe.Flow) Labels {
	snap := st.Snapshot()
	end := func(p *observe.Peer) End {
		e := End{Namespace: p.Identity.Namespace(), Identity: p.Identity}
		if p.Workload == "" {
			return e
		}
		e.Namespace, _ = model.SplitKey(p.Workload)
		// A pod that has gone stays unknown: its name would be a series for a single pod.
		if w, ok := st.Workloads.Get(snap, p.Workload); ok {
			e.Owner = w.CountedAs()
		}
		return e
	}
	return Labels{
		Reporter: string(f.SeenAt), Source: end(&f.Source), Destination: end(&f.Destination), Service: f.Destination.Service,
		MTLS: f.Source.Identity != "" && f.Destination.Identity != "",
	}
}
