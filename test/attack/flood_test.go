package attack

import (
	"crypto/tls"
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

// floodSpec opens connections and resets each at once, or, with Hello, as soon as the server has answered a ClientHello.
type floodSpec struct {
	To      netip.AddrPort
	Workers int
	Hold    time.Duration
	Hello   bool
}

func floodConnections(s floodSpec) (report, error) {
	var done, refused atomic.Int64
	end := time.Now().Add(s.Hold)
	var hello []byte
	if s.Hello {
		hello = clientHello()
	}
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
				if s.Hello {
					_ = c.SetDeadline(time.Now().Add(2 * time.Second))
					_, _ = c.Write(hello)
					_, _ = c.Read(make([]byte, 1))
				}
				// A reset leaves no port in TIME_WAIT, so that the attacker does not run out of ports.
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(refused.Load())}, nil
}

// clientHello is the first that a TLS client says.
func clientHello() []byte {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() // the attacker does not care
		client.Close()
	}()
	b := make([]byte, 16<<10)
	n, _ := server.Read(b)
	return b[:n]
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

// flood attacks an address by which pods come.
func flood(t *testing.T, a *arena, attacker *lab.Pod, to netip.AddrPort) string {
	return a.flooded(t, attacker, floodSpec{To: to}, netip.AddrPortFrom(a.plain.Address, 8080))
}

// floodGateway: the same from an outsider to a Gateway, while another namespace's Gateway is asked too.
func floodGateway(t *testing.T, a *arena) string {
	edge := a.gateways(t)
	return a.flooded(t, a.outsider, floodSpec{To: netip.AddrPortFrom(edge, 80)}, netip.AddrPortFrom(a.plain.Address, 8080))
}

// floodGatewayTLS: the same, by connections on which a Gateway begins TLS handshakes.
func floodGatewayTLS(t *testing.T, a *arena) string {
	edge := a.gateways(t)
	return a.flooded(t, a.outsider, floodSpec{To: netip.AddrPortFrom(edge, 443), Hello: true}, netip.AddrPortFrom(a.plain.Address, 8443))
}

// flooded attacks in three turns, and for control an address outside of the mesh.
func (a *arena) flooded(t *testing.T, attacker *lab.Pod, spec floodSpec, outside netip.AddrPort) string {
	t.Helper()
	const turns = 3
	spec.Workers, spec.Hold = 64, 4*time.Second
	var r, control report
	noticed := a.inTurns(t, turns, func() { r.join(from(t, attacker, "flood", spec).wait()) }, func() {
		direct := spec
		direct.To = outside
		control.join(from(t, a.outsider, "flood", direct).wait())
	})
	rate := func(r report) int { return int(float64(r.Done) / (turns * spec.Hold.Seconds())) }
	return fmt.Sprintf("%d connections a second, %d refused (control %d a second); %s", rate(r), r.Refused, rate(control), noticed)
}
