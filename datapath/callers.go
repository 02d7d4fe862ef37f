package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Divisions for the callers of a namespace. The programs know the namespace of a pod by a number among its flags. A namespace has
// one while a Division is for its callers and a pod of it is on this node.

// callers are the namespaces with a number.
type callers struct {
	numbers map[string]uint8
	// divided are the namespaces that the Divisions of a port are for, by the port's key.
	divided map[string][]string
	// complete says that the tables hold everything: what has no number there needs none.
	complete bool
}

// numberCallers brings the numbers up to date, and adds the objects that are to change with them.
func (r *reconciler) numberCallers(snap *state.Snapshot, objects map[object]struct{}) {
	divided, namespaces := map[string][]string{}, map[string]bool{}
	for d := range r.st.Divisions.By(snap, state.ByCallers, "true") {
		ns, name := model.SplitKey(d.Service)
		port := model.PortKey(ns, name, d.Port, model.TCP)
		divided[port] = append(divided[port], d.CallerNamespace)
		namespaces[d.CallerNamespace] = true
	}
	wanted := map[string]bool{}
	if len(namespaces) > 0 {
		for w := range r.st.Workloads.By(snap, state.ByLocal, "true") {
			if namespaces[w.Namespace] {
				wanted[w.Namespace] = true
			}
		}
	}
	before := r.callers.numbers
	_, all := objects[leftovers]
	r.callers = callers{numbers: r.assign(before, wanted), divided: divided, complete: r.synced || all}
	if len(before)+len(r.callers.numbers) == 0 && !r.workloads.numbered() {
		return
	}
	objects[callerFlags] = struct{}{}
	for d := range r.st.Divisions.By(snap, state.ByCallers, "true") {
		if ns := d.CallerNamespace; before[ns] != r.callers.numbers[ns] {
			objects[object{model.SubjectService, d.Service}] = struct{}{}
		}
	}
}

// assign returns the numbers of the wanted namespaces. One that is new gets a number that nothing in the kernel has.
func (r *reconciler) assign(before map[string]uint8, wanted map[string]bool) map[string]uint8 {
	out, used := map[string]uint8{}, [256]bool{0: true}
	for ns, n := range before {
		if wanted[ns] {
			out[ns] = n
		}
	}
	if len(out) == len(wanted) {
		return out
	}
	for _, n := range before {
		used[n] = true
	}
	for _, flags := range r.workloads.pods.have {
		used[flags>>callerShift] = true
	}
	for k := range r.services.frontends.have {
		used[k.Pad] = true
	}
	next := 0
	for _, ns := range slices.Sorted(maps.Keys(wanted)) {
		if out[ns] != 0 {
			continue
		}
		for next < len(used) && used[next] {
			next++
		}
		if next == len(used) {
			break
		}
		out[ns], used[next] = uint8(next), true
	}
	return out
}

// callersOf returns the Divisions of a port for the callers of namespaces with a number, by it.
func (r *reconciler) callersOf(snap *state.Snapshot, port string) map[uint8]*model.Division {
	var out map[uint8]*model.Division
	for _, ns := range r.callers.divided[port] {
		d, ok := r.st.Divisions.Get(snap, model.DivisionKey(port, ns))
		if n := r.callers.numbers[ns]; ok && n != 0 {
			if out == nil {
				out = map[uint8]*model.Division{}
			}
			out[n] = d
		}
	}
	return out
}

// unnumbered fails if the kernel does not know the callers of a Division: there are more namespaces than numbers.
func (r *reconciler) unnumbered(s *model.Service) error {
	for _, p := range s.Ports {
		for _, ns := range r.callers.divided[model.PortKey(s.Namespace, s.Name, p.Port, p.Protocol)] {
			if r.callers.numbers[ns] == 0 && r.workloads.has(ns) {
				return fmt.Errorf("port %d: the TCPRoute of namespace %s does not apply: pods of more than 255 namespaces with such routes are on the node", p.Port, ns)
			}
		}
	}
	return nil
}

// has reports whether a pod of a namespace is on this node.
func (ws *workloads) has(namespace string) bool {
	for _, l := range ws.local {
		if l.workload.Namespace == namespace {
			return true
		}
	}
	return false
}

// numbered reports whether a pod has a number, perhaps from an earlier agent.
func (ws *workloads) numbered() bool {
	for _, flags := range ws.pods.have {
		if flags>>callerShift != 0 {
			return true
		}
	}
	return false
}

// set writes the numbers of the local workloads' namespaces.
func (c *callers) set(ws *workloads) error {
	var errs []error
	for _, l := range ws.local {
		cookie := l.ns.Cookie()
		flags, ok := ws.pods.have[cookie]
		if !ok {
			continue
		}
		n := uint32(c.numbers[l.workload.Namespace])
		if n == 0 && !c.complete {
			continue
		}
		errs = append(errs, ws.pods.put(cookie, flags&(1<<callerShift-1)|n<<callerShift))
	}
	return errors.Join(errs...)
}
