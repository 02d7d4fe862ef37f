package attack

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// floodSpec opens connections and resets each at once.
type floodSpec struct {
	To      netip.AddrPort
	Workers int
	Hold    time.Duration
}

func floodConnections(s floodSpec) (report, error) {
	var done, refused atomic.Int64
	end := time.Now().Add(s.Hold)
	var wg sync.WaitGroup
	for range s.Workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := net.DialTimeout("tcp", s.To.String(), 2*time.Second)
				if err != nil {
					refused.Add(1)
					continue
				}
				done.Add(1)
				// A reset leaves no port in TIME_WAIT, so that the attacker does not run out of ports.
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(refused.Load())}, nil
}

// floodRouted: a pod that connects to a port with routes and closes, as fast as it can.
func floodRouted(t *testing.T, a *arena) string {
	return flood(t, a, a.mallory, netip.MustParseAddrPort(a.routed("tenant")))
}

// floodBytes: the same to a port without routes of another tenant, by weft tunnel.
func floodBytes(t *testing.T, a *arena) string {
	return flood(t, a, a.mallory, netip.AddrPortFrom(a.ServiceIP("bank", "bytes"), 80))
}

// floodHBONE: the same from an outsider, to where the peers of a strict pod come in.
func floodHBONE(t *testing.T, a *arena) string {
	return flood(t, a, a.outsider, netip.AddrPortFrom(a.server.Address, model.PortHBONE))
}

// flood attacks an address. The control is the same on an application outside of the mesh.
func flood(t *testing.T, a *arena, attacker *lab.Pod, to netip.AddrPort) string {
	spec := floodSpec{To: to, Workers: 64, Hold: 10 * time.Second}
	var r, control report
	noticed := a.under(t, func() { r = from(t, attacker, "flood", spec).wait() }, func() {
		direct := spec
		direct.To = netip.AddrPortFrom(a.plain.Address, 8080)
		control = from(t, a.outsider, "flood", direct).wait()
	})
	rate := func(r report) int { return int(float64(r.Done) / spec.Hold.Seconds()) }
	return fmt.Sprintf("%d connections a second, %d refused (control %d a second); %s", rate(r), r.Refused, rate(control), noticed)
}
