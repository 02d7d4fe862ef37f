package tunnel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// leaveTime is how long what the agent takes away still works. The kernels of other nodes lead connections here until they
// know. Each of these is authenticated as before.
const leaveTime = 5 * time.Second

// apply makes a workload's pod as it says. It is a task, as are all that change pods.
func (n *Node) apply(w *Workload) {
	if w.Identity == "" {
		n.disable(w)
		return
	}
	n.answer(w, n.applyPod(w))
}

// answer tells the agent that a workload's connections are taken, or why not. A certificate that has not come is no fault:
// the answer follows it, and the agent knows what its issuer says.
func (n *Node) answer(w *Workload, err error) {
	n.mu.Lock()
	delete(n.failed, w.Key)
	certified := n.svids[w.Identity] != nil && n.roots != nil
	if (err != nil || !certified) && !n.draining {
		n.failed[w.Key] = w
	}
	n.mu.Unlock()
	if err != nil || certified {
		n.link.applied(w, err)
	}
}

var errDraining = errors.New("another process takes new connections")

func (n *Node) applyPod(w *Workload) error {
	n.mu.Lock()
	p := n.pods[w.Key]
	n.mu.Unlock()
	if p == nil && n.isDraining() {
		return errDraining
	}
	if p != nil {
		if p.isIn(w) {
			return p.apply(w)
		}
		n.remove(w.Key)
	}
	p, err := newPod(n, w)
	if err != nil {
		return err
	}
	if inode, err := p.ns.inode(); err != nil || inode != w.Inode {
		p.close()
		return errors.Join(err, fmt.Errorf("the network namespace at %s is not the workload's any more", w.NetNS))
	}
	n.mu.Lock()
	n.pods[w.Key] = p
	n.mu.Unlock()
	return p.apply(w)
}

// disable lets a pod leave that has no identity any more. Its policy still holds for the streams that it has.
func (n *Node) disable(w *Workload) {
	n.mu.Lock()
	p := n.pods[w.Key]
	n.mu.Unlock()
	if p != nil && p.isIn(w) {
		p.police(w.Policy)
	}
	n.leave(w.Key)
}

// leave takes a pod out of the mesh: after leaveTime it takes nothing new, and it goes with its last stream.
func (n *Node) leave(key string) {
	n.mu.Lock()
	p := n.pods[key]
	delete(n.failed, key)
	n.mu.Unlock()
	if p == nil || p.leaving {
		return
	}
	p.leaving = true
	p.reserves.Store(true)
	p.reservePorts(netip.Addr{})
	p.applied++
	applied := p.applied
	n.later(func() {
		if p.applied == applied {
			p.drain()
			p.drained = true
		}
	})
}

// later lets work do something after leaveTime.
func (n *Node) later(task func()) { time.AfterFunc(leaveTime, func() { n.do(task) }) }

func (n *Node) remove(key string) {
	n.mu.Lock()
	p := n.pods[key]
	delete(n.pods, key)
	delete(n.failed, key)
	n.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// removeDrained removes the pods that left and carry nothing any more.
func (n *Node) removeDrained() {
	n.mu.Lock()
	var gone []string
	for key, p := range n.pods {
		if p.drained && p.idle() {
			gone = append(gone, key)
		}
	}
	n.mu.Unlock()
	for _, key := range gone {
		n.remove(key)
	}
}

// keep forgets the workloads and identities that the agent did not tell of since the link was made.
func (n *Node) keep(workloads map[string]bool, ids map[model.Identity]bool) {
	n.mu.Lock()
	var gone []string
	for key := range n.pods {
		if !workloads[key] {
			gone = append(gone, key)
		}
	}
	maps.DeleteFunc(n.failed, func(key string, _ *Workload) bool { return !workloads[key] })
	var unused []model.Identity
	for id := range n.svids {
		if !ids[id] {
			unused = append(unused, id)
		}
	}
	n.mu.Unlock()
	for _, key := range gone {
		n.leave(key)
	}
	for _, id := range unused {
		n.leaveIdentity(id)
	}
}

// retry applies what failed once more.
func (n *Node) retry() {
	n.mu.Lock()
	failed := slices.Collect(maps.Values(n.failed))
	n.mu.Unlock()
	for _, w := range failed {
		n.apply(w)
	}
}
