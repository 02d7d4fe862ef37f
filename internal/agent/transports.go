package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// transports are those that Envoy takes with the listeners of this version, sorted.
var transports = []model.Transport{model.TransportHBONE}

// withTunnel are those that a node takes where weft tunnel runs, sorted. It is a process of its own, so an agent of this
// version that takes over takes it too.
var withTunnel = append(slices.Clone(transports), model.TransportTunnel)

const (
	// acceptedPoll is how often it is looked whether Envoy has accepted everything.
	acceptedPoll = 500 * time.Millisecond
	// withdrawTime bounds how long other nodes are waited for before an agent that takes less takes over.
	withdrawTime = 5 * time.Second
)

// accepting finds out when this node takes what its agent's version takes: when Envoy has accepted the listeners of all
// local workloads. An Envoy of the agent before may have others.
type accepting struct {
	st *state.State

	mu        sync.Mutex
	known     bool
	withdrawn bool
}

// accepted returns the transports that this node takes; nil while that is not known.
func (a *accepting) accepted() []model.Transport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.withdrawn {
		return nil
	}
	if a.known = a.known || a.allAccepted(); !a.known {
		return nil
	}
	if a.carried() {
		return withTunnel
	}
	return transports
}

// carried reports whether weft tunnel serves local workloads. It holds for the moment: another weft proxy may run without
// it. A workload that it cannot serve does not count where it serves others: a pod that takes its port must not change how
// the connections of all pods of the node go.
func (a *accepting) carried() bool {
	snap := a.st.Snapshot()
	for c := range a.st.Carried.All(snap) {
		if c.Error == "" && c.Revision > 0 {
			return a.st.TunnelConnected(snap)
		}
	}
	return false
}

func (a *accepting) allAccepted() bool {
	snap := a.st.Snapshot()
	if !a.st.EnvoyConnected(snap) {
		return false
	}
	for w := range a.st.Workloads.By(snap, state.ByLocal, "true") {
		_, revision, _ := a.st.Workloads.Revision(snap, w.Key())
		if !a.st.AcceptedAt(snap, model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}, revision) {
			return false
		}
	}
	return true
}

// write keeps the row of a node that has no others, until ctx ends.
func (a *accepting) write(ctx context.Context, node string) error {
	tick := time.NewTicker(acceptedPoll)
	defer tick.Stop()
	var written []model.Transport
	for {
		if accepts := a.accepted(); accepts != nil && !slices.Equal(accepts, written) {
			w := a.st.Write(a.st.Nodes)
			a.st.Nodes.Put(w, &model.Node{Name: node, Accepts: accepts})
			w.Commit()
			written = accepts
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// withdraw returns when no node sends by a transport that the next agent does not take. The next agent's listeners
// replace those of this one at once.
func (a *Agent) withdraw(ctx context.Context, next []model.Transport) {
	has, ok := a.st.Nodes.Get(a.st.Snapshot(), a.cfg.Node)
	if !ok || !slices.ContainsFunc(has.Accepts, func(t model.Transport) bool {
		return t != model.TransportHBONE && !slices.Contains(next, t)
	}) {
		return
	}
	a.cfg.Log.Info("the next agent takes fewer transports; the nodes go back to HBONE first", "it takes", model.TransportNames(next))
	ctx, cancel := context.WithTimeout(ctx, withdrawTime)
	defer cancel()
	a.transports.mu.Lock()
	a.transports.withdrawn = true
	a.transports.mu.Unlock()
	if a.addrs.elector == nil {
		w := a.st.Write(a.st.Nodes)
		a.st.Nodes.Delete(w, a.cfg.Node)
		w.Commit()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // for Envoy to take it
		}
		return
	}
	if err := a.addrs.elector.Withdraw(ctx); err != nil {
		a.cfg.Log.Warn("other nodes may go on sending by transports that the next agent does not take", "error", err)
	}
}

// load closes a.loaded when objects and placements are read, what other nodes take, and the Secrets of Gateways.
func (a *Agent) load(ctx context.Context) error {
	if a.addrs.elector != nil {
		if err := a.addrs.elector.Load(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("what other nodes take is not known yet; they are sent HBONE", "error", err)
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-a.placed():
	}
	a.awaitSecrets(ctx)
	if ctx.Err() == nil {
		close(a.loaded)
	}
	return nil
}
