package agent

import (
	"context"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/proxy"
)

// EnvoyVersion is the release that xds and internal/proxy are written for and tested with.
const EnvoyVersion = "1.40.0"

// view is the node as weft status and the metrics show it.
func (a *Agent) view() api.Node {
	return api.Node{
		State: a.st, Objects: a.objs, Dir: a.where, Loaded: a.source.Loaded(), Flows: a.flows, Map: a.servicemap, Tunnel: a.cfg.Tunnel, Envoy: a.proxy,
		Agent: api.Agent{
			Version: a.cfg.Version, Envoy: EnvoyVersion, Node: a.cfg.Node, PID: os.Getpid(), Started: a.started,
			TrustDomain: a.cfg.TrustDomain,
		},
	}
}

// proxyRetry lies between attempts to reach weft proxy. proxyGrace is how long one may not answer that did: it is the time
// in which another takes over from it.
const (
	proxyRetry = 200 * time.Millisecond
	proxyGrace = time.Second
)

// followProxy keeps the row of the node's Envoy as weft proxy reports it.
func (a *Agent) followProxy(ctx context.Context) error {
	var heard time.Time
	losses := &proxyLosses{st: a.st, flows: a.flows}
	for {
		began := time.Now()
		err := a.proxy.Follow(ctx, func(st *proxy.Status) {
			heard = time.Now()
			a.putProxy(proxyRow(st))
			losses.take(st)
		})
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			heard = time.Now() // until now
		}
		wait := proxyRetry
		if err != nil && time.Since(heard) > proxyGrace {
			a.putProxy(&model.Proxy{Error: err.Error()})
			wait = proxyGrace
		}
		if time.Since(began) > wait {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (a *Agent) putProxy(row *model.Proxy) {
	w := a.st.Write(a.st.Proxies)
	defer w.Commit()
	a.st.Proxies.Put(w, row)
}

func proxyRow(st *proxy.Status) *model.Proxy {
	row := &model.Proxy{
		Version: st.Version, State: st.State, PID: st.PID, Epoch: st.Epoch, Restarts: st.Restarts, Overloads: st.Overloads, Crashes: st.Crashes, Started: st.Since,
		Overload: proxy.Active(st.Overload), OverloadActions: slices.Sorted(maps.Keys(st.Overload)), Error: st.LastError,
	}
	if u := st.Unanswered; u != nil {
		row.Unanswered = &model.Unanswered{Requests: u.Requests, From: u.From, To: u.To, Total: u.Total}
	}
	if t := st.Tunnel; t != nil {
		row.Tunnel = &model.TunnelProcess{PID: t.PID, Crashes: t.Crashes, Error: t.LastError}
	}
	return row
}
