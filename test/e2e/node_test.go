//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

// TestNodeDies kills the node that announces a Gateway's address and boots it again. The other node takes the address
// over, traffic between pods of the other node goes on, and the dead node's strict pod never answers in the clear,
// neither before it died nor at any moment of its return.
func TestNodeDies(t *testing.T) {
	background(t)
	ns := "e2e-death"
	namespace(t, ns, "")
	apply(t, httpGateway(ns, "edge", ""))
	address := gatewayAddress(t, ns, "edge")
	dies := ownerOf(t, address)
	lives := other(t, dies)
	vaults := "e2e-vaults"
	namespace(t, vaults, "weft.io/mtls: strict")
	apply(t, service(ns, "web", "web")+route(ns, "web", "web", backend{"web", 1})+gatewayRoute(ns, "edge", "edge", edgeHost, "web"))
	apply(t, service(vaults, "web", "web")+service(vaults, "vault", "vault"))
	deploy(t, deployment{namespace: ns, name: "web", node: lives}, deployment{namespace: ns, name: "client", node: lives},
		deployment{namespace: vaults, name: "web", node: lives}, deployment{namespace: vaults, name: "client", node: lives},
		deployment{namespace: vaults, name: "vault", node: dies})
	safe := append(inside(t, ns, "route", "web"), inside(t, vaults, "mTLS bytes", "web")...)
	works(t, append(safe, outside(t, "gateway", ns, "edge", edgeHost)...))

	f := begin(t, safe...)
	p := probe(t, vaults, "vault", dies)
	killed := time.Now()
	if err := mesh.KillNode(dies); err != nil {
		t.Fatal(err)
	}
	eventually(t, settle, func() error {
		if a := workload.Call(t.Context(), "http://"+address+"/", edgeHost, nil); a.Status != 200 {
			return fmt.Errorf("the Gateway of the node that died: %+v", a)
		}
		return nil
	})
	measured(t, "from the node's death to the Gateway's answer by the other node", time.Since(killed))
	if now := ownerOf(t, address); now != lives {
		t.Errorf("%s is at %s, want %s", address, now, lives)
	}
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	booted := time.Now()
	if err := mesh.BootNode(ctx, dies); err != nil {
		t.Fatal(err)
	}
	returns(t, vaults, dies, booted)
	keepFlowing(5 * time.Second)
	p.end()
	f.end()
	measured(t, "the Gateway's address is at the node that came back", ownerOf(t, address) == dies)
	statuses(t, address, edgeHost, 200)
}

func other(t *testing.T, node string) string {
	t.Helper()
	for _, n := range mesh.Nodes() {
		if n != node {
			return n
		}
	}
	t.Fatal("the cluster has one node")
	return ""
}

// returns waits until the vault of a node that was booted serves who has an identity, and all of the mesh runs.
func returns(t *testing.T, ns, dies string, booted time.Time) {
	t.Helper()
	kubectl(t, "wait", "--for=condition=Ready", "node/"+dies, "--timeout="+settle.String())
	url := "http://" + clusterIP(t, ns, "vault") + "/"
	eventually(t, 2*settle, func() error {
		if a := call(t, ns, "client", url); a.Status != 200 {
			return fmt.Errorf("the vault on the node that came back: %+v", a)
		}
		return nil
	})
	measured(t, "from the node's boot to the vault's answer to who has an identity", time.Since(booted))
	rolledOut(t, system, parts...)
}

// prober calls all addresses that a pod has or may get, in the clear and all the time.
type prober struct {
	t         *testing.T
	namespace string
	name      string
	stop      context.CancelFunc
	done      sync.WaitGroup

	mu    sync.Mutex
	tried int
	leaks []string
}

// probed are how many addresses after the last one of a node are probed: a pod that comes back gets one of them.
const probed = 24

// probe starts to probe a Deployment's pod on a node. The pod's answers begin with the Deployment's name.
func probe(t *testing.T, ns, name, node string) *prober {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &prober{t: t, namespace: ns, name: name, stop: cancel}
	t.Cleanup(func() { cancel(); p.done.Wait() })
	last := netip.MustParseAddr(podOf(t, ns, name).Status.PodIP)
	targets := []netip.Addr{last}
	for _, other := range list[pod](t, "v1", "Pod", "", "fieldSelector=spec.nodeName="+node) {
		if a, err := netip.ParseAddr(other.Status.PodIP); err == nil && a.Is4() && a.As4()[2] == last.As4()[2] && last.Less(a) {
			last = a
		}
	}
	for range probed {
		last = last.Next()
		targets = append(targets, last)
	}
	for _, a := range targets {
		for _, port := range []uint16{workload.PortHTTP, workload.PortBytes} {
			p.done.Go(func() { p.run(ctx, netip.AddrPortFrom(a, port).String()) })
		}
	}
	return p
}

const probeEvery = 100 * time.Millisecond

func (p *prober) run(ctx context.Context, at string) {
	for ctx.Err() == nil {
		answer := greeting(ctx, at)
		p.mu.Lock()
		p.tried++
		if strings.Contains(answer, p.name+" saw") && len(p.leaks) < 10 {
			p.leaks = append(p.leaks, fmt.Sprintf("%s %s: %q", time.Now().Format("15:04:05.000"), at, answer))
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

// greeting is what an address says in the clear, to a request and by itself.
func greeting(ctx context.Context, at string) string {
	c, err := (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext(ctx, "tcp", at)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	buf := make([]byte, 1024)
	got := 0
	for got < len(buf) {
		n, err := c.Read(buf[got:])
		if got += n; err != nil {
			break
		}
	}
	return string(buf[:got])
}

// end stops the prober, and fails the test if the pod answered, or accepted a connection of this machine.
func (p *prober) end() {
	p.t.Helper()
	p.stop()
	p.done.Wait()
	measured(p.t, "probes in the clear", p.tried)
	for _, l := range p.leaks {
		p.t.Errorf("the strict pod answered in the clear: %s", l)
	}
	out, err := in(p.t, p.namespace, p.name, nil, "peers")
	if err != nil {
		p.t.Error(err)
	}
	p.t.Logf("the pod accepted connections from %s", strings.TrimSpace(out))
	if strings.Contains(out, `"10.89.0.1"`) {
		p.t.Errorf("the strict pod accepted connections of this machine, which is not in the mesh: %s", out)
	}
}
