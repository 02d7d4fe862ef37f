package announce

import (
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// Which transports a node takes is said by its Lease, and does not end with the Lease: Envoy goes on without its agent.
// It ends when the node says otherwise, when an older agent renews the Lease, or when the Lease is deleted.

const (
	// loadTime bounds how long Load takes.
	loadTime = 5 * time.Second
	// spread is how long the others may take to follow what a Lease says.
	spread = 2 * time.Second
)

// Load writes st.Nodes once, before Run follows the Leases: what is translated before would lack what other nodes take.
func (e *Elector) Load(ctx context.Context) error {
	client, err := e.client(loadTime)
	if err != nil {
		return err
	}
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("list the Leases of agents in namespace %s: %w", e.cfg.Namespace, err)
	}
	for i := range list.Items {
		if m, ok := decode(&list.Items[i]); ok {
			e.note(m, false)
		}
	}
	return nil
}

// note writes what a node says of itself.
func (e *Elector) note(m member, gone bool) {
	if gone {
		m.Accepts, m.Addresses = nil, nil
	}
	e.noteAddresses(m)
	old, had := e.st.Nodes.Get(e.st.Snapshot(), m.Node)
	if had == (len(m.Accepts) > 0) && (!had || slices.Equal(old.Accepts, m.Accepts)) {
		return
	}
	w := e.st.Write(e.st.Nodes)
	defer w.Commit()
	if len(m.Accepts) == 0 {
		e.st.Nodes.Delete(w, m.Node)
	} else {
		e.st.Nodes.Put(w, &model.Node{Name: m.Node, Accepts: m.Accepts})
	}
}

// ofLease is the source of the addresses that a Lease says.
const ofLease = "Lease"

func (e *Elector) noteAddresses(m member) {
	row := &model.NodeAddresses{Source: ofLease, Node: m.Node, Addresses: m.Addresses}
	old, had := e.st.NodeAddresses.Get(e.st.Snapshot(), row.Key())
	if had == (len(row.Addresses) > 0) && (!had || slices.Equal(old.Addresses, row.Addresses)) {
		return
	}
	w := e.st.Write(e.st.NodeAddresses)
	defer w.Commit()
	if len(row.Addresses) == 0 {
		e.st.NodeAddresses.Delete(w, row.Key())
	} else {
		e.st.NodeAddresses.Put(w, row)
	}
}

// forgetNodes drops the nodes that a complete list does not hold.
func (e *Elector) forgetNodes(there map[string]bool) {
	w := e.st.Write(e.st.Nodes, e.st.NodeAddresses)
	defer w.Commit()
	for n := range e.st.Nodes.All(w.Snapshot()) {
		if !there[n.Name] {
			e.st.Nodes.Delete(w, n.Name)
		}
	}
	for n := range e.st.NodeAddresses.All(w.Snapshot()) {
		if n.Source == ofLease && !there[n.Node] {
			e.st.NodeAddresses.Delete(w, n.Key())
		}
	}
}

// Withdraw makes the Lease say that this node takes HBONE only, for good, and gives the other nodes time to follow.
func (e *Elector) Withdraw(ctx context.Context) error {
	e.mu.Lock()
	if e.withdrawn == nil {
		e.withdrawn = make(chan struct{})
		e.wanted.Accepts = nil
	}
	done := e.withdrawn
	e.mu.Unlock()
	select {
	case e.changed <- struct{}{}:
	default:
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("say in Lease %s/%s%s that this node takes HBONE only: %w", e.cfg.Namespace, leasePrefix, e.cfg.Node, ctx.Err())
	case <-done:
	}
	select {
	case <-ctx.Done():
	case <-time.After(spread):
	}
	return nil
}

// wrote takes in what the API server has now.
func (e *Elector) wrote(l *coordinationv1.Lease) {
	m, ok := decode(l)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.withdrawn == nil || !ok || len(m.Accepts) > 0 {
		return
	}
	select {
	case <-e.withdrawn:
	default:
		close(e.withdrawn)
	}
}
