package attack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/tunnel"
)

const deputyManifest = gatewayClass + `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: victim, namespace: bank}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.9.1}]
  listeners: [{name: tcp, protocol: TCP, port: 9000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: victim, namespace: bank}
spec: {parentRefs: [{name: victim}], rules: [{backendRefs: [{name: bytes, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: deputy, namespace: tenant}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.9.2}]
  listeners: [{name: tcp, protocol: TCP, port: 9000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: deputy, namespace: tenant}
spec: {parentRefs: [{name: deputy}], rules: [{backendRefs: [{name: deputy, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: deputy, namespace: tenant}
spec: {clusterIP: 10.96.77.9, ports: [{port: 80}]}
`

// deputySlice leads a tenant's Gateway to an address and port.
func deputySlice(to netip.AddrPort) string {
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: deputy-1, namespace: tenant, labels: {kubernetes.io/service-name: deputy}}
addressType: IPv4
ports: [{port: %d, protocol: TCP}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, to.Port(), to.Addr())
}

// gatewayPretence: a tenant's endpoint leads his Gateway to the port at which weft tunnel takes what Envoy says of Gateways, by
// addresses that are the node's too. The client sends a header that names another namespace's Gateway. Nobody gets to a strict
// pod by it.
func gatewayPretence(t *testing.T, a *arena) string {
	victim, deputy := netip.MustParseAddrPort("10.98.9.1:9000"), netip.MustParseAddrPort("10.98.9.2:9000")
	a.put(t, "deputy.yaml", deputyManifest)
	a.put(t, "deputy-slice.yaml", deputySlice(netip.AddrPortFrom(a.accomplice.Address, 8080)))
	for _, to := range []netip.AddrPort{victim, deputy} {
		until(t, "a Gateway is served", func() error { return reached(a.outsider, to) })
	}
	port := gatewaysPort(t, a)
	header := pretence(t, netip.AddrPortFrom(a.server.Address, 8080))
	const tries = 20
	at := []netip.Addr{victim.Addr(), deputy.Addr(), a.Lab.Gateway, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("0.0.0.0")}
	for _, addr := range at {
		if err := a.Write("deputy-slice.yaml", []byte(deputySlice(netip.AddrPortFrom(addr, port)))); err != nil {
			t.Fatal(err)
		}
		until(t, "the tenant's Gateway leads elsewhere", func() error {
			if reached(a.outsider, deputy) == nil {
				return fmt.Errorf("it still leads to %s", a.accomplice.Name)
			}
			return nil
		})
		for range tries {
			if answer := a.say(t, deputy, header); strings.Contains(answer, "200 OK") {
				t.Fatalf("a strict pod answers a client who says that he is another Gateway, by an endpoint %s: %q", addr, answer)
			}
		}
		if err := a.Write("deputy-slice.yaml", []byte(deputySlice(netip.AddrPortFrom(a.accomplice.Address, 8080)))); err != nil {
			t.Fatal(err)
		}
		until(t, "the tenant's Gateway is served again", func() error { return reached(a.outsider, deputy) })
	}
	if err := reached(a.outsider, victim); err != nil {
		t.Errorf("the Gateway itself: %v", err)
	}
	return fmt.Sprintf("%d headers by %d endpoints refused", tries*len(at), len(at))
}

// gatewaysPort is where weft tunnel takes connections of Gateways. An attacker would try all ports.
func gatewaysPort(t *testing.T, a *arena) uint16 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(a.RunDir, tunnel.GatewayPortFile))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// pretence is the header by which Envoy speaks for the Gateway bank/victim.
func pretence(t *testing.T, to netip.AddrPort) []byte {
	t.Helper()
	local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1234"))
	h := proxyproto.HeaderProxyFromAddrs(2, local, local)
	err := h.SetTLVs([]proxyproto.TLV{
		{Type: model.ProxyOwner, Value: []byte("gateway/bank/victim")},
		{Type: model.ProxyIdentity, Value: []byte("spiffe://cluster.local/ns/bank/sa/victim")},
		{Type: model.ProxyDestination, Value: []byte(to.String())},
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// say sends a header and a request from the outsider, and returns what comes back.
func (a *arena) say(t *testing.T, to netip.AddrPort, header []byte) string {
	t.Helper()
	c, err := a.outsider.Dial(contextFor(5*time.Second), "tcp", to.String())
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = c.Write(append(header[:len(header):len(header)], "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"...))
	answer, _ := io.ReadAll(c)
	return string(answer)
}
