package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
)

// EnvoyVersion is the release that xds and internal/proxy are written for and tested with.
const EnvoyVersion = "1.40.0"

var _ api.Source = (*Agent)(nil)

// State is the model.
func (a *Agent) State() *state.State { return a.st }

// Flows are the last ones.
func (a *Agent) Flows() *observe.Store { return a.flows }

// Agent tells about this process.
func (a *Agent) Agent() api.Agent {
	return api.Agent{
		Version: a.cfg.Version, Envoy: EnvoyVersion, Node: a.cfg.Node, PID: os.Getpid(), Started: a.started,
		TrustDomain: a.cfg.TrustDomain,
	}
}

// Folder tells about the manifests, or about the API server in their place.
func (a *Agent) Folder() *api.Folder {
	out := &api.Folder{Dir: a.where, Objects: a.source.Count(), Problems: []api.Problem{}}
	select {
	case <-a.source.Loaded():
		out.Loaded = true
	default:
	}
	for _, p := range a.source.Problems() {
		out.Problems = append(out.Problems, api.Problem(p))
	}
	return out
}

// CNI tells how the plugin stands.
func (a *Agent) CNI() *api.CNI {
	if a.node == nil || a.node.installer == nil {
		return nil
	}
	file, problems := a.node.installer.State()
	return &api.CNI{File: file, Problems: problems}
}

// tunnelFault says what keeps weft tunnel from carrying bytes, if this node sends them by it. st is what weft proxy says of
// weft tunnel, nil if it has none to run.
func (a *Agent) tunnelFault(st *proxy.TunnelStatus) string {
	if !a.cfg.Tunnel {
		return ""
	}
	snap := a.st.Snapshot()
	if !a.st.TunnelConnected(snap) {
		const instead = "; until then authenticated bytes go by Envoy (HBONE)"
		switch {
		case st == nil:
			return "weft proxy has --tunnel=false or is of an older version: start it with weft tunnel, or the agent with --bytes hbone" + instead
		case st.LastError != "":
			return "weft tunnel does not run, and weft proxy starts it again: " + st.LastError + instead
		case st.PID == 0:
			return "weft tunnel is not started yet" + instead
		}
		return fmt.Sprintf("weft tunnel (pid %d) has not connected to the agent yet%s", st.PID, instead)
	}
	for c := range a.st.Carried.All(snap) {
		if c.Error != "" {
			return fmt.Sprintf("Pod %s cannot be reached by it: %s", c.Name, c.Error)
		}
	}
	return ""
}

// Proxy asks weft proxy; one that does not answer within a second is not there.
func (a *Agent) Proxy() api.Proxy {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := a.proxy.Status(ctx)
	switch {
	case errors.Is(err, proxy.ErrNotRunning):
		return api.Proxy{Error: "weft proxy does not run; start it, or the agent with --proxy"}
	case err != nil:
		return api.Proxy{Error: err.Error()}
	}
	return api.Proxy{
		Tunnel:  a.tunnelFault(st.Tunnel),
		Version: st.Version, State: st.State, PID: st.PID, Epoch: st.Epoch, Restarts: st.Restarts, Started: st.Since,
		Connected: st.XDSConnected, Overload: proxy.Active(st.Overload),
		OverloadActions: slices.Sorted(maps.Keys(st.Overload)), Error: st.LastError,
	}
}
