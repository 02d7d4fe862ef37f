package nodereport

import (
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// IncidentKind is what happened to one of a node's processes.
type IncidentKind string

// The kinds. Each is the reason of an Event.
const (
	// EnvoyReplaced is that weft proxy replaced an Envoy that stayed in overload.
	EnvoyReplaced IncidentKind = "EnvoyReplaced"
	// EnvoyDied is that Envoy ended by itself.
	EnvoyDied IncidentKind = "EnvoyDied"
	// EnvoyFull is that Envoy has as many connections as it may have, and refuses others.
	EnvoyFull IncidentKind = "EnvoyFull"
	// TunnelDied is that weft tunnel ended by itself.
	TunnelDied IncidentKind = "TunnelDied"
)

func (k IncidentKind) known() bool {
	return slices.Contains([]IncidentKind{EnvoyReplaced, EnvoyDied, EnvoyFull, TunnelDied}, k)
}

const (
	maxIncidents = 16
	maxDetail    = 200 // bytes
	// again is how long incidents of a kind count as one.
	again = 10 * time.Minute
	// remembered is how long an incident is in the report: a controller has that long to make an Event of it.
	remembered = 30 * time.Minute
)

// Incident is something that happened to a process of the node. Kind and Time name it.
type Incident struct {
	Kind   IncidentKind `json:"kind"`
	Time   int64        `json:"time"` // seconds since 1970, by the node's clock
	Detail string       `json:"detail,omitempty"`
}

// Counts are what incidents are found from: how often each has happened.
type Counts struct {
	Overloads     int `json:"overloads"`
	Crashes       int `json:"crashes"`
	TunnelCrashes int `json:"tunnelCrashes"`
	Full          int `json:"full,omitempty"` // 1 while Envoy refuses connections for their number
}

func countsOf(p *model.Proxy) Counts {
	c := Counts{Overloads: p.Overloads, Crashes: p.Crashes}
	if slices.Contains(p.Overload, model.OverloadConnections) {
		c.Full = 1
	}
	if p.Tunnel != nil {
		c.TunnelCrashes = p.Tunnel.Crashes
	}
	return c
}

// since returns the incidents between two counts. A count that went down is that of another weft proxy, which began at 0.
func (c Counts) since(before Counts, p *model.Proxy, now time.Time) []Incident {
	var out []Incident
	add := func(kind IncidentKind, before, after int, detail string) {
		if after < before {
			before = 0
		}
		if after > before {
			out = append(out, Incident{kind, now.Unix(), detail})
		}
	}
	add(EnvoyReplaced, before.Overloads, c.Overloads, strings.Join(p.Overload, ", "))
	add(EnvoyDied, before.Crashes, c.Crashes, p.Error)
	add(EnvoyFull, before.Full, c.Full, "")
	if p.Tunnel != nil {
		add(TunnelDied, before.TunnelCrashes, c.TunnelCrashes, p.Tunnel.Error)
	}
	return out
}
