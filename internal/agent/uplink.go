package agent

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/hubble"
)

// newUplink returns what gives the node's flows to the controllers; nil without a controller.
func (a *Agent) newUplink() *hubble.Uplink {
	if a.ca == nil {
		return nil
	}
	return &hubble.Uplink{
		Observer: hubble.NewObserver(hubble.Config{
			Node: a.cfg.Node, Version: a.cfg.Version, State: a.st, Flows: a.flows, Started: a.started,
		}),
		Map:  a.servicemap,
		Rows: func(s grpc.ServiceRegistrar) { api.Register(s, a.view()) },
		Dial: func(ctx context.Context, replica netip.AddrPort) (net.Conn, error) {
			return a.ca.remote.Connect(ctx, replica, hubble.Path, hubble.Protocol)
		},
		Replicas: a.ca.watchReplicas, Log: a.cfg.Log,
	}
}
