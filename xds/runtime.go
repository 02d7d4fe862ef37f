package xds

import (
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// One layer of runtime values is served (RTDS): how many connections each listener may have that waits for first bytes, of a
// Gateway or for detection, and how many sessions each UDP port of a Gateway. Envoy counts connections from the moment that it
// accepts them. The connection_limit filter of other listeners would not see those that wait. A circuit breaker that is changed by its cluster
// instead would end the cluster's sessions.
var runtimeKind = &kind{build: buildRuntime}

func buildRuntime(b *builder, name string) *built {
	if name != model.RuntimeLimits {
		return nil
	}
	listeners, datagrams := map[string][]string{}, map[string][]string{} // by namespace
	for g := range b.st.Gateways.All(b.snap) {
		for _, p := range g.Ports {
			ns := p.Namespace(g.Namespace)
			switch {
			case len(g.Addresses) == 0 || len(p.Listeners) == 0:
			case p.UDP:
				datagrams[ns] = append(datagrams[ns], model.GatewayDatagrams(g.Namespace, g.Name, p.Port))
			default:
				listeners[ns] = append(listeners[ns], model.GatewayTable(g.Namespace, g.Name, p.Port, ""))
			}
		}
	}
	values := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	limit := func(listener string, most uint64) {
		values.Fields["envoy.resource_limits.listener."+listener+".connection_limit"] = structpb.NewNumberValue(float64(most))
	}
	for _, names := range listeners {
		for _, n := range names {
			limit(n, b.cfg.gatewayShare(len(names), len(listeners)))
		}
	}
	// A listener for detection or server names stays when no Service needs it any more.
	for w := range b.st.Workloads.By(b.snap, state.ByLocal, "true") {
		if len(ListenerNames(w)) > 0 {
			limit(workloadName(w, outDetect), b.cfg.connectionsPerListener())
			limit(workloadName(w, outSNI), b.cfg.connectionsPerListener())
		}
	}
	for _, names := range datagrams {
		for _, n := range names {
			values.Fields["circuit_breakers."+n+".default.max_connections"] = structpb.NewNumberValue(float64(b.cfg.sessionShare(len(names), len(datagrams))))
		}
	}
	return &built{message: &runtimev3.Runtime{Name: model.RuntimeLimits, Layer: values}}
}

// gatewayShare is what each of n listeners of a namespace's Gateways and ListenerSets has, if so many namespaces have such. All of them
// together have gatewayFactor times as many connections as a pod's listener, which is half of the node's: the rest is for pods. A change
// ends no connection.
func (c *Config) gatewayShare(n, namespaces int) uint64 {
	return max(c.connectionsPerListener()*gatewayFactor/uint64(namespaces)/uint64(n), 1)
}
