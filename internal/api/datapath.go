package api

import (
	"fmt"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Datapath is what is in the kernel.
type Datapath struct {
	Hooks []Hook `json:"hooks"`
	Maps  []Map  `json:"maps"`
	// Failures are what the kernel does not hold as it should.
	Failures []Failure `json:"failures,omitempty"`
}

// Hook is a place in the kernel where a program is attached: connect4 on the root cgroup, sk_lookup/NAMESPACE/POD in a
// pod's network namespace.
type Hook struct {
	Name    string `json:"name"`
	Error   string `json:"error,omitempty"`   // what was found wrong with it; "" if nothing is
	Repairs uint64 `json:"repairs,omitempty"` // how often somebody changed it and the agent put it right
}

// Map is a BPF map. The entries of the event ring are bytes.
type Map struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Max     int    `json:"max"`
	Full    bool   `json:"full,omitempty"`
}

// Failure is an object that could not be programmed.
type Failure struct {
	Kind  model.SubjectKind `json:"kind"`
	Name  string            `json:"name"`
	Error string            `json:"error"`
}

func (f Failure) String() string { return fmt.Sprintf("%s %s: %s", f.Kind, f.Name, f.Error) }

func datapath(st *state.State, snap *state.Snapshot) Datapath {
	d := Datapath{Hooks: []Hook{}, Maps: []Map{}}
	for p := range st.Programmed.All(snap) {
		switch {
		case p.Kind == model.SubjectHook:
			d.Hooks = append(d.Hooks, Hook{p.Name, p.Error, p.Repairs})
		case p.Error != "":
			d.Failures = append(d.Failures, Failure{p.Kind, p.Name, p.Error})
		}
	}
	for m := range st.MapUsage.All(snap) {
		d.Maps = append(d.Maps, Map{m.Name, m.Entries, m.Max, m.Full()})
	}
	return d
}

// maxFailures bounds how many of one sort are listed.
const maxFailures = 5

// Faults says what is wrong, most of a sort only counted.
func (d *Datapath) Faults() (out []string) {
	if len(d.Hooks) == 0 {
		out = append(out, "no eBPF program is attached")
	}
	list := func(what string, all []string) {
		out = append(out, all[:min(len(all), maxFailures)]...)
		if more := len(all) - maxFailures; more > 0 {
			out = append(out, fmt.Sprintf("and %d more %s", more, what))
		}
	}
	var hooks, failures []string
	for _, h := range d.Hooks {
		if h.Error != "" {
			hooks = append(hooks, fmt.Sprintf("hook %s: %s", h.Name, h.Error))
		}
	}
	for _, f := range d.Failures {
		failures = append(failures, f.String())
	}
	list("hooks", hooks)
	list("objects that the kernel does not hold as it should", failures)
	for _, m := range d.Maps {
		if m.Full {
			out = append(out, fmt.Sprintf("map %s is full, or nearly so (%d of %d)", m.Name, m.Entries, m.Max))
		}
	}
	return out
}
