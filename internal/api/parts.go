package api

import (
	"fmt"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// folder returns what is read from the manifests, or from the API server in their place; nil if Node says neither.
func (n *Node) folder(snap *state.Snapshot) *Folder {
	if n.Dir == "" {
		return nil
	}
	out := &Folder{Dir: n.Dir, Objects: n.Objects.Count(snap), Problems: []Problem{}}
	select {
	case <-n.Loaded:
		out.Loaded = true
	default:
	}
	for _, p := range n.Objects.AllProblems(snap) {
		out.Problems = append(out.Problems, Problem(p))
	}
	return out
}

// proxy returns what is known of the node's Envoy.
func (n *Node) proxy(snap *state.Snapshot) Proxy {
	row, ok := n.State.Proxies.Get(snap, (*model.Proxy).Key(nil))
	if !ok {
		return Proxy{}
	}
	out := Proxy{
		Version: row.Version, State: row.State, PID: row.PID, Epoch: row.Epoch, Restarts: row.Restarts, Overloads: row.Overloads, Started: row.Started,
		Unanswered: row.Unanswered, Connected: n.State.EnvoyConnected(snap), Overload: row.Overload, OverloadActions: row.OverloadActions, Error: row.Error,
	}
	if n.Tunnel && row.State != "" {
		out.Tunnel = tunnelFault(n.State, snap, row.Tunnel)
	}
	return out
}

// tunnelFault says what keeps weft tunnel from carrying bytes; "" if nothing does. p is nil if weft proxy has none to run.
func tunnelFault(st *state.State, snap *state.Snapshot, p *model.TunnelProcess) string {
	if !st.TunnelConnected(snap) {
		const instead = "; until then authenticated bytes go by Envoy (HBONE)"
		switch {
		case p == nil:
			return "weft proxy has --tunnel=false or is of an older version: start it with weft tunnel, or the agent with --bytes hbone" + instead
		case p.Error != "":
			return "weft tunnel does not run, and weft proxy starts it again: " + p.Error + instead
		case p.PID == 0:
			return "weft tunnel is not started yet" + instead
		}
		return fmt.Sprintf("weft tunnel (pid %d) has not connected to the agent yet%s", p.PID, instead)
	}
	for c := range st.Carried.All(snap) {
		if c.Error != "" && !c.PortTaken {
			return fmt.Sprintf("Pod %s cannot be reached by it: %s", c.Name, c.Error)
		}
	}
	return ""
}
