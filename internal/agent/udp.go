package agent

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// followUDP turns what local workloads say by UDP into flows, until ctx ends.
func (a *Agent) followUDP(ctx context.Context) error {
	var queries observe.Queries
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return a.path.Datagrams(ctx, a.udpExchange, func(m datapath.DNSMessage) { a.dnsMessage(&queries, m) }, a.flows.AddLost)
	})
	g.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				for _, x := range queries.Unanswered(now) {
					a.dnsExchange(x)
				}
			}
		}
	})
	return g.Wait()
}

// udpEnds are the ends of a flow by UDP, as one of them sees it.
type udpEnds struct {
	source, destination, service netip.AddrPort
	atSource                     bool
}

// udpFlow returns a flow with its ends. No end proves who it is by UDP.
func (a *Agent) udpFlow(e udpEnds) observe.Flow {
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Protocol: model.UDP, Verdict: observe.Forwarded, Layer: observe.L4, SeenAt: observe.AtDestination,
		Source: r.Peer(e.source), Destination: r.Peer(e.destination),
	}
	if e.atSource {
		f.SeenAt = observe.AtSource
	}
	if e.service.IsValid() {
		f.Destination.Service = r.Peer(e.service).Service
	}
	return f
}

func (a *Agent) udpExchange(x datapath.Exchange) {
	ends := udpEnds{x.Local, x.Remote, x.Service, true}
	sent, received := x.Sent, x.Received
	if x.Inbound {
		ends = udpEnds{source: x.Remote, destination: x.Local}
		sent, received = received, sent
	}
	f := a.udpFlow(ends)
	f.Time, f.Duration, f.Sent, f.Received = x.Last, x.Last.Sub(x.First), sent, received
	a.flows.Add(f)
}

// dnsPort is the server's (RFC 1035, 4.2.1).
const dnsPort = 53

func (a *Agent) dnsMessage(q *observe.Queries, m datapath.DNSMessage) {
	d := observe.DNSDatagram{Time: m.Time, Client: m.Remote, Server: m.Local, Length: m.Length, Data: m.Data}
	// A server may ask others from its port 53: the direction of the message decides then.
	response := len(m.Data) > 2 && m.Data[2]&0x80 != 0
	if m.Local.Port() != dnsPort || m.Remote.Port() == dnsPort && m.Egress != response {
		d.Client, d.Server, d.Service, d.AtClient = m.Local, m.Remote, m.Service, true
	}
	x, lost := q.Take(d)
	if lost {
		a.flows.AddLost(1)
	}
	if x != nil {
		a.dnsExchange(x)
	}
}

func (a *Agent) dnsExchange(x *observe.DNSExchange) {
	f := a.udpFlow(udpEnds{x.Client, x.Server, x.Service, x.AtClient})
	f.Layer, f.DNS = observe.L7, &x.DNS
	f.Time, f.Duration, f.Sent, f.Received = x.Time, x.Took, uint64(x.Sent), uint64(x.Received)
	if x.Code == "" {
		f.Verdict, f.Reason = observe.Failed, "no answer within "+observe.QueryTimeout.String()
	}
	a.flows.Add(f)
}
