package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// health answers the kubelet's probes: /healthz while the agent runs and is found at its sockets, /readyz when it has done
// what it must once. That Envoy is there is not among it: traffic that needs no Envoy goes on without.
func (a *Agent) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.lostSockets(); err != nil {
			http.Error(w, "not healthy: "+err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if lacks := a.lacks(); len(lacks) > 0 {
			http.Error(w, "not ready: "+strings.Join(lacks, "; "), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// lostSockets says at which sockets Envoy, the CNI plugin and users do not find the agent any more.
func (a *Agent) lostSockets() error {
	errs := []error{lost(a.xdsSocket), lost(a.tunnelSocket), lost(a.apiSocket)}
	if a.node != nil {
		errs = append(errs, lost(a.node.socket))
	}
	return errors.Join(errs...)
}

// socketsPoll is how often the sockets are looked at.
const socketsPoll = time.Second

// watchSockets fails when the agent is not found at its sockets twice in a row: whoever starts it again starts it in the
// run directory that there is then.
func (a *Agent) watchSockets(ctx context.Context) error {
	tick := time.NewTicker(socketsPoll)
	defer tick.Stop()
	lost := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := a.lostSockets()
		if lost++; err == nil {
			lost = 0
		}
		if lost == 2 {
			return fmt.Errorf("the agent ends, for nobody finds it any more: %w", err)
		}
	}
}

// lacks says what is not done yet.
func (a *Agent) lacks() []string {
	var out []string
	for _, step := range []struct {
		done <-chan struct{}
		what string
	}{
		{a.source.Loaded(), "objects are not all read from " + a.where},
		{a.placed(), "pods that run on this node were not looked for yet"},
		{a.loaded, "what other nodes take, or the certificates of Gateways, are not known yet"},
		{a.st.Synced(), "objects are not translated yet"},
	} {
		select {
		case <-step.done:
		default:
			out = append(out, step.what)
		}
	}
	return append(out, kernelLacks(a.st)...)
}

// kernelLacks says at which hooks the kernel does not run our programs, and what else concerns the node as a whole. That
// a workload or a service is not programmed is no reason to take the agent for one that is not ready.
func kernelLacks(st *state.State) (out []string) {
	hooks := 0
	for p := range st.Programmed.All(st.Snapshot()) {
		if p.Kind == model.SubjectHook {
			hooks++
		}
		if p.Error != "" && (p.Kind == model.SubjectHook || p.Kind == model.SubjectNode) {
			out = append(out, fmt.Sprintf("%s %s: %s", p.Kind, p.Name, p.Error))
		}
	}
	if hooks == 0 {
		return []string{"eBPF programs are not attached"}
	}
	return out
}
