package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-mesh/weft/test/bench/wire"
)

// What agents do with what pods say by UDP. The first is there twice: what its two figures differ by is noise.
const (
	withoutUDP  = "no flows by UDP"
	withoutUDP2 = "no flows by UDP, again"
	withUDP     = "flows by UDP and of DNS, the default"
)

// questions measures whole questions to DNS by UDP, between two pods, while agents look at them or do not.
func questions(ctx context.Context, c config, r *report) (err error) {
	b, end, err := newBuilder(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	server := b.n.Pod("plain", "server")
	at := netip.AddrPortFrom(server.Address, 53)
	cmd, _, err := self(server, "as-dns", netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()).String())
	if err != nil {
		return err
	}
	b.procs = append(b.procs, cmd)
	if err := b.n.StartAgent(); err != nil {
		return err
	}
	if err := b.n.Ready(ctx); err != nil {
		return err
	}
	w := way{name: "DNS by UDP", from: b.n.Pod("plain", "client"), target: at, server: cmd.Process.Pid}
	// The bound of what is passed on is 2,000 messages a second and pod: far below what is asked as fast as it goes, and above
	// the last load.
	loads := []wire.Load{
		{Connections: 1, Duration: c.span, Questions: true},
		{Connections: 32, Duration: c.span, Questions: true},
		{Connections: 2, Duration: c.span, Questions: true, Every: 2 * time.Millisecond},
	}
	variants := []variant{{withoutUDP, []string{"--no-udp-flows"}}, {withoutUDP2, []string{"--no-udp-flows"}}, {withUDP, nil}}
	samples := make([]map[string][]sample, len(loads))
	for i := range loads {
		samples[i] = map[string][]sample{}
	}
	err = takeTurns(ctx, b.n, c.rounds, variants, func(v variant, proxies []int) error {
		w.proxies = proxies
		for i, l := range loads {
			s, err := w.measureTurn(ctx, l)
			if err != nil {
				return err
			}
			samples[i][v.name] = append(samples[i][v.name], s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, l := range loads {
		name := fmt.Sprintf("%s, %d sockets, ", w.name, l.Connections)
		if l.Every > 0 {
			name += fmt.Sprintf("each every %v", l.Every)
		} else {
			name += "as fast as it goes"
		}
		r.Questions = append(r.Questions, observed(name, l, variants, samples[i]))
	}
	return nil
}
