package datapath

import (
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// programs are the programs that every node has, and the pins.
type programs interface {
	// attach puts them on their hooks, in the place of those of an earlier version. It may be called again.
	attach() error
	// check compares each hook with the kernel, and puts right what somebody changed. It returns an entry for each.
	check() map[string]repair
	checkPins() repair
}

// hookState is what is known of a hook since the last check.
type hookState struct {
	fault   string
	until   time.Time // the fault is shown, after it was put right
	repairs uint64
	written bool // Programmed holds this fault and these repairs
}

// faultShown is how long a fault stays in Programmed after it was put right, so that readers see it.
const faultShown = 5 * time.Second

// verify compares all hooks with the kernel.
func (r *reconciler) verify() {
	found := map[model.Subject]repair{}
	if r.programs != nil {
		found[model.Subject{Kind: model.SubjectNode, Name: "pins"}] = r.programs.checkPins()
		for name, rep := range r.programs.check() {
			found[model.Subject{Kind: model.SubjectHook, Name: name}] = rep
		}
	}
	for key, l := range r.workloads.local {
		if rep, attached := l.ns.Check(); attached {
			found[model.Subject{Kind: model.SubjectHook, Name: inboundHook + key}] = rep
		}
	}
	w := r.st.Write(r.st.Programmed)
	defer w.Commit()
	for subject, rep := range found {
		state := r.observe(subject, rep)
		if state.written {
			continue
		}
		state.written = true
		if subject.Kind != model.SubjectHook && state.fault == "" {
			r.st.Programmed.Delete(w, subject.Key())
			continue
		}
		r.st.Programmed.Put(w, &model.Programmed{Subject: subject, Error: state.fault, Repairs: state.repairs})
	}
	for subject := range r.hooks {
		if _, ok := found[subject]; !ok {
			delete(r.hooks, subject)
			r.st.Programmed.Delete(w, subject.Key())
		}
	}
}

// inboundHook is before a workload's key in the name of its hook.
const inboundHook = "sk_lookup/"

// observe notes what a check found, and logs what is new.
func (r *reconciler) observe(subject model.Subject, rep repair) *hookState {
	state, now := r.hooks[subject], time.Now()
	if state == nil {
		state = &hookState{}
		r.hooks[subject] = state
	}
	before := *state
	switch fault := rep.String(); {
	case rep.starting:
		state.fault = fault
	case fault != "":
		if fault != state.fault {
			r.log.Error("the mesh's part in the kernel was changed by somebody else", "object", subject.Key(), "found", fault)
		}
		state.fault, state.until = fault, now.Add(faultShown)
		if rep.err == nil {
			state.repairs++
		}
	case !now.Before(state.until):
		state.fault = ""
	}
	if state.fault != before.fault || state.repairs != before.repairs {
		state.written = false
	}
	return state
}
