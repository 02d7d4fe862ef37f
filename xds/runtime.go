package xds

import (
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
)

// One layer of runtime values is served (RTDS): how many connections each listener of a Gateway may have. Envoy counts them
// from the moment that it accepts them. The connection_limit filter of other listeners would not see those that wait for a
// handshake's first bytes.
var runtimeKind = &kind{build: buildRuntime}

func buildRuntime(b *builder, name string) *built {
	if name != model.RuntimeLimits {
		return nil
	}
	listeners := map[string][]string{} // by namespace
	for g := range b.st.Gateways.All(b.snap) {
		for _, p := range g.Ports {
			if len(g.Addresses) > 0 && len(p.Listeners) > 0 {
				ns := p.Namespace(g.Namespace)
				listeners[ns] = append(listeners[ns], model.GatewayTable(g.Namespace, g.Name, p.Port, ""))
			}
		}
	}
	values := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, names := range listeners {
		for _, n := range names {
			values.Fields["envoy.resource_limits.listener."+n+".connection_limit"] = structpb.NewNumberValue(float64(b.cfg.gatewayShare(len(names))))
		}
	}
	return &built{message: &runtimev3.Runtime{Name: model.RuntimeLimits, Layer: values}}
}

// gatewayShare is what each of n listeners of a namespace's Gateways and ListenerSets has: they have gatewayFactor times as many connections as
// a pod's listener together. A change ends no connection.
func (c *Config) gatewayShare(n int) uint64 {
	return max(c.connectionsPerListener()*gatewayFactor/uint64(n), 1)
}
