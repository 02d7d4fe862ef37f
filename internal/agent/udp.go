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

// followUDP turns what local workloads say by UDP, and to DNS by TCP, into flows, until ctx ends.
func (a *Agent) followUDP(ctx context.Context) error {
	var queries observe.Queries
	g, ctx := errgroup.WithContext(ctx)
	asked := make(chan struct{}, 1)
	g.Go(func() error {
		return a.path.Datagrams(ctx, a.udpExchange, func(m datapath.DNSMessage) {
			a.dnsMessage(&queries, m)
			select {
			case asked <- struct{}{}:
			default:
			}
		}, a.flows.AddLost)
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-asked:
				a.awaitAnswers(ctx, &queries)
			}
		}
	})
	return g.Wait()
}

// awaitAnswers reports the questions that have no answer in time, until none waits or ctx ends.
func (a *Agent) awaitAnswers(ctx context.Context, q *observe.Queries) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for q.Waiting() > 0 {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, x := range q.Unanswered(now) {
				a.dnsExchange(x)
			}
		}
	}
}

// udpEnds are the ends of a flow by UDP, as one of them sees it.
type udpEnds struct {
	source, destination, service netip.AddrPort
	atSource                     bool
	workload                     string // that the local end is of; "" if that is not known
	gone                         bool   // the local end's workload has gone: another may have its address
}

// udpFlow returns a flow with its ends. No end proves who it is by UDP.
func (a *Agent) udpFlow(e udpEnds) observe.Flow {
	r := observe.NewResolver(a.st)
	f := observe.Flow{
		Protocol: model.UDP, Verdict: observe.Forwarded, Layer: observe.L4, SeenAt: observe.AtDestination,
		Source: r.Peer(e.source), Destination: r.Peer(e.destination),
	}
	local := &f.Destination
	if e.atSource {
		f.SeenAt, local = observe.AtSource, &f.Source
	}
	if local.Workload != e.workload && (e.workload != "" || e.gone) {
		*local = observe.Peer{Address: local.Address, Workload: e.workload}
	}
	if e.service.IsValid() {
		f.Destination.Service = r.Peer(e.service).Service
	}
	return f
}

func (a *Agent) udpExchange(x datapath.Exchange) {
	ends := udpEnds{source: x.Local, destination: x.Remote, service: x.Service, atSource: true}
	sent, received := x.Sent, x.Received
	if x.Inbound {
		ends = udpEnds{source: x.Remote, destination: x.Local}
		sent, received = received, sent
	}
	ends.workload, ends.gone = x.Workload, x.Workload == ""
	f := a.udpFlow(ends)
	f.Time, f.Duration, f.Sent, f.Received = x.Last, x.Last.Sub(x.First), sent, received
	a.datagrams.Ended(&f)
	a.flows.Add(f)
}

// dnsPort is the server's (RFC 1035, 4.2.1).
const dnsPort = 53

func (a *Agent) dnsMessage(q *observe.Queries, m datapath.DNSMessage) {
	d := observe.DNSDatagram{Time: m.Time, Workload: m.Workload, Client: m.Remote, Server: m.Local, TCP: m.TCP, Length: m.Length, Data: m.Data}
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
	f := a.udpFlow(udpEnds{source: x.Client, destination: x.Server, service: x.Service, atSource: x.AtClient, workload: x.Workload})
	if x.TCP {
		f.Protocol = model.TCP
	}
	f.Layer, f.DNS = observe.L7, &x.DNS
	f.Time, f.Duration, f.Sent, f.Received = x.Time, x.Took, uint64(x.Sent), uint64(x.Received)
	if x.Code == "" {
		f.Verdict, f.Reason = observe.Failed, "no answer within "+observe.QueryTimeout.String()
		if x.Took < observe.QueryTimeout {
			f.Reason = "no answer before the client asked something else under the same number"
		}
	}
	a.datagrams.Ended(&f)
	a.flows.Add(f)
}
