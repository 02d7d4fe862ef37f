package faults

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/testenv"
)

// Everything that an operator looks at says that Envoy is in overload while it is.
func TestOverload(t *testing.T) {
	testenv.Root(t)
	metrics := freeAddress(t)
	n := newNode(t, "--metrics-address="+metrics, "--proxy-args=--memory-limit=100000000,--overload-time=-1s")
	n.put(t, "hoard.yaml", `apiVersion: v1
kind: Service
metadata: {name: hoard, namespace: street, labels: {weft.io/l7: enabled}}
spec: {clusterIP: 10.86.1.2, selector: {app: passerby}, ports: [{port: 80, targetPort: 9999}]}
`)
	n.healthy(t)
	const action = "stop_accepting_requests"
	value := func() string { return metric(t, metrics, `weft_proxy_overload{action="`+action+`"}`) }
	eventually(t, "the metric is 0", func() error {
		if v := value(); v != "0" {
			return fmt.Errorf("it is %s", v)
		}
		return nil
	})
	release := hoard(t, n, n.client, netip.MustParseAddrPort("10.86.1.2:80"), action)
	n.faulty(t, "Envoy is in overload", action)
	if v := value(); v != "1" {
		t.Errorf("metric %s in overload, want 1", v)
	}
	out, err := exec.Command(n.Binary, "status", "--run", n.RunDir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "IN OVERLOAD") || !strings.Contains(string(out), action) {
		t.Errorf("weft status: %v: %s", err, out)
	}
	if said := weftCheck(n.status(t)); !strings.Contains(said, action) {
		t.Errorf("weft check does not tell: %s", said)
	}
	release()
	n.healthy(t)
	if v := value(); v != "0" {
		t.Errorf("metric %s after the overload, want 0", v)
	}
}

// hoard uploads to a backend in the passerby's pod that never reads, until Envoy's overload action is active.
func hoard(t *testing.T, n *node, from *lab.Pod, to netip.AddrPort, action string) (release func()) {
	t.Helper()
	l, err := n.passerby.Listen("tcp", netip.AddrPortFrom(n.passerby.Address, 9999).String())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	release = func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
	}
	t.Cleanup(release)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			keep(c)
		}
	}()
	for range 300 {
		if slices.Contains(n.status(t).Proxy.Overload, action) {
			return release
		}
		c, err := from.Dial(t.Context(), "tcp", to.String())
		if err != nil {
			continue
		}
		keep(c)
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Write(make([]byte, 16<<20))
	}
	t.Fatalf("300 uploads that stay in Envoy do not bring it into overload: %+v", n.status(t).Proxy)
	return nil
}
