package attack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// envoyMemory bounds Envoy's heap in a sweep of ports, in MB.
const envoyMemory = 200

// sweepSpec connects once to each port of each address.
type sweepSpec struct {
	To          []netip.Addr
	First, Last int
	Workers     int
}

func sweep(s sweepSpec) (report, error) {
	var done, refused atomic.Int64
	var wg sync.WaitGroup
	next := make(chan netip.AddrPort)
	for range s.Workers {
		wg.Go(func() {
			for to := range next {
				c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", to.String())
				if err != nil {
					refused.Add(1)
					continue
				}
				done.Add(1)
				// Until the mesh has tried to reach the port.
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
				_, _ = c.Read(make([]byte, 1))
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	for port := s.First; port <= s.Last; port++ {
		for _, to := range s.To {
			next <- netip.AddrPortFrom(to, uint16(port))
		}
	}
	close(next)
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(refused.Load())}, nil
}

// sweepPorts: what a client chooses takes nothing of the node that stays.
func sweepPorts(t *testing.T, a *arena) string {
	spec := sweepSpec{To: []netip.Addr{a.accomplice.Address}, First: 1, Last: 4096, Workers: 64}
	if long {
		spec.Last = 65535
		spec.To = append(spec.To, a.server.Address, a.accomplice.Address6, a.server.Address6)
	}
	var r report
	control := spec
	control.To = []netip.Addr{a.plain.Address, a.plain.Address6, a.plain.Address, a.plain.Address6}
	noticed := a.under(t, func() { r = from(t, a.mallory, "sweep", spec).wait() },
		func() { from(t, a.outsider, "sweep", control).wait() })
	envoy, tunnel := a.memory(t)
	if envoy > envoyMemory {
		t.Errorf("Envoy holds %d MB", envoy)
	}
	if tunnel > tunnelMemory {
		t.Errorf("weft tunnel holds %d MB", tunnel)
	}
	return fmt.Sprintf("%d ports; Envoy %d MB, weft tunnel %d MB; %s", r.Done+r.Refused, envoy, tunnel, noticed)
}

// dials reports whether a port of an address takes connections of a pod.
func dials(p *lab.Pod, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", to.String())
	if err == nil {
		c.Close()
	}
	return err
}
