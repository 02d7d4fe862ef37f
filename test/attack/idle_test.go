package attack

import (
	"cmp"
	"context"
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
	"github.com/weft-mesh/weft/internal/sockdiag"
)

// idleSpec keeps connections open on which nothing is sent, and opens those again that are closed.
type idleSpec struct {
	To   netip.AddrPort
	Many int
	Hold time.Duration
	TLS  bool // a handshake is made first
	// Pause is how long it waits before it opens one again; 100 ms if it is 0.
	Pause time.Duration
}

func (s *idleSpec) open() (net.Conn, error) {
	c, err := net.DialTimeout("tcp", s.To.String(), 2*time.Second)
	if err != nil || !s.TLS {
		return c, err
	}
	secret := tls.Client(c, &tls.Config{InsecureSkipVerify: true}) // the attacker does not care
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := secret.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return secret, nil
}

func holdIdle(s idleSpec) (report, error) {
	var done, refused, now, most atomic.Int64
	end := time.Now().Add(s.Hold)
	var wg sync.WaitGroup
	for range s.Many {
		wg.Go(func() {
			for time.Now().Before(end) {
				c, err := s.open()
				if err != nil {
					refused.Add(1)
					time.Sleep(time.Second)
					continue
				}
				done.Add(1)
				for n := now.Add(1); n > most.Load(); {
					most.Store(n)
				}
				_ = c.SetReadDeadline(end)
				_, _ = c.Read(make([]byte, 1))
				now.Add(-1)
				c.Close()
				time.Sleep(cmp.Or(s.Pause, 100*time.Millisecond))
			}
		})
		if wait := s.Many / 1000; wait > 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	wg.Wait()
	return report{Done: int(done.Load()), Refused: int(refused.Load()), Most: int(most.Load())}, nil
}

// strangersASecond are the connections of an outsider that the kernel lets in (GUESTS_OF_ADDRESS of datapath/bpf/guests.h).
const strangersASecond = 40

func idleHBONE(t *testing.T, a *arena) string  { return idle(t, a, "bank", a.server, model.PortHBONE) }
func idleTunnel(t *testing.T, a *arena) string { return idle(t, a, "bank", a.server, model.PortTunnel) }

// idlePermissive: a pod that takes connections in the clear too has peers that authenticate.
func idlePermissive(t *testing.T, a *arena) string {
	return idle(t, a, "open", a.open, model.PortHBONE)
}

// idle: 10,000 connections of an outsider to where a pod's peers come in keep none of them away. A peer that has no
// session yet is served too.
func idle(t *testing.T, a *arena, namespace string, pod *lab.Pod, port uint16) string {
	spec := idleSpec{To: netip.AddrPortFrom(pod.Address, port), Many: 2000, Hold: 4 * time.Second}
	if long {
		spec.Many, spec.Hold = 12_000, 30*time.Second
	}
	var r report
	var late []error
	held := 0
	noticed := a.under(t, func() {
		p := from(t, a.outsider, "idle", spec)
		for end := time.Now().Add(spec.Hold / 2); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			held = max(held, establishedFrom(t, a.outsider, pod, port))
		}
		// By IPv6 and from another pod: nothing is there to be used again.
		for _, to := range []string{netip.AddrPortFrom(pod.Address6, 8080).String(), netip.AddrPortFrom(pod.Address, 8080).String(), a.routed(namespace)} {
			late = append(late, reached(a.mallory, netip.MustParseAddrPort(to)))
		}
		r = p.wait()
	}, func() {
		control := spec
		control.To = netip.AddrPortFrom(a.plain.Address, port)
		from(t, a.outsider, "idle", control).wait()
	})
	for _, err := range late {
		if err != nil {
			t.Errorf("a peer that was not connected before: %v", err)
		}
	}
	// The outsider takes a connection for made before the pod does. A handshake with TLS may take 10 s.
	if most := strangersASecond * (10 + 2) * 2; held > most || held == 0 {
		t.Errorf("%d connections of an outsider were let in at once, want 1 to %d", held, most)
	}
	return fmt.Sprintf("%d connections were let in at once, the outsider had %d at most; %s", held, r.Most, noticed)
}

// establishedFrom counts the connections that a port of a pod has with another pod.
func establishedFrom(t *testing.T, from, pod *lab.Pod, port uint16) (n int) {
	t.Helper()
	if err := pod.Do(func() error {
		all, err := sockdiag.TCP()
		for _, s := range all {
			if s.State == sockdiag.Established && s.Local.Port() == port && (s.Remote.Addr() == from.Address || s.Remote.Addr() == from.Address6) {
				n++
			}
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	return n
}

const undeclaredManifest = `apiVersion: v1
kind: Service
metadata: {name: undeclared, namespace: tenant}
spec: {clusterIP: 10.96.77.8, selector: {app: accomplice}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: undeclared, namespace: tenant}
spec: {parentRefs: [{group: "", kind: Service, name: undeclared}], rules: [{backendRefs: [{name: undeclared, port: 80}]}]}
`

// idleUndeclared: connections of a tenant's pod on which nothing is sent, to a port that may or may not speak HTTP, wait for
// their first bytes and keep no other pod from Envoy.
func idleUndeclared(t *testing.T, a *arena) string {
	a.put(t, "undeclared.yaml", undeclaredManifest)
	to := netip.MustParseAddrPort("10.96.77.8:80")
	until(t, "the Service is served", func() error { return reached(a.mallory, to) })
	spec := idleSpec{To: to, Many: 8000, Hold: 6 * time.Second, Pause: 2 * time.Second}
	var r report
	noticed := a.under(t, func() { r = from(t, a.mallory, "idle", spec).wait() }, func() {
		control := spec
		control.To = netip.AddrPortFrom(a.plain.Address, 8080)
		from(t, a.outsider, "idle", control).wait()
	})
	return fmt.Sprintf("%d connections, at most %d at once; %s", r.Done, r.Most, noticed)
}

// ownPortsOfOthers: an application of a pod without an identity that listens on the mesh's ports is an application like any
// other, and one of a strict pod is reached by nobody in the clear.
func ownPortsOfOthers(t *testing.T, a *arena) string {
	n := 0
	for _, port := range []uint16{model.PortHBONE, model.PortTunnel, model.PortInbound, model.PortHTTP, model.PortTCP, model.PortTunnelOut} {
		for _, to := range []*lab.Pod{a.plain, a.server} {
			if to == a.server && (port == model.PortHBONE || port == model.PortTunnel) {
				continue // Envoy and weft tunnel listen there
			}
			for _, addr := range []netip.Addr{to.Address, to.Address6} {
				at := netip.AddrPortFrom(addr, port)
				serve(t, to, at.String())
				err := reached(a.outsider, at)
				if to == a.plain && err != nil {
					t.Errorf("port %d of %s: the application is not reached: %v", port, to.Name, err)
				}
				if to == a.server && err == nil {
					t.Errorf("port %d of %s, which is strict, is reached in the clear", port, to.Name)
				}
				n++
			}
		}
	}
	return fmt.Sprintf("%d ports", n)
}
