package transparency

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
	"github.com/weft-mesh/weft/tunnel"
)

const (
	firstPort = 7000
	// atOnce cases of a path run together: most of them wait.
	atOnce = 8
)

// path is a way from a client to a server.
type path struct {
	name           string
	client, server *process
	to             netip.Addr
	authenticated  bool
	// gateway is the namespace of the Gateways that the path leads through; "" for none.
	gateway string
}

// control is what a path is compared with: connections without the mesh, or through a Gateway to servers in the clear.
func (p path) control() string {
	return fmt.Sprintf("gateway %t, IPv4 %t", p.gateway != "", p.to.Is4())
}

// TestTransparency compares every path of the mesh with the direct one.
func TestTransparency(t *testing.T) {
	testenv.Root(t)
	n := start(t)
	controls := map[string]map[string]observed{}
	for _, p := range paths(t, n) {
		control := p.control()
		var base map[string]observed
		if !t.Run(p.name, func(t *testing.T) {
			base = p.run(t, controls[control], controls[path{to: netip.IPv4Unspecified()}.control()])
			if tunnel, hbone := sessions(t, p.server.pod); p.authenticated && (tunnel == 0 || hbone > 0) {
				t.Errorf("%d connections to weft tunnel and %d to HBONE: another way was taken", tunnel, hbone)
			}
		}) {
			t.Log(n.Logs())
		}
		if controls[control] == nil {
			controls[control] = base
		}
	}
	t.Run("nobody but Envoy speaks for a Gateway", func(t *testing.T) { strangers(t, n) })
}

// strangers: a process of the host connects to weft tunnel with the header that Envoy sends.
func strangers(t *testing.T, n *sandbox.Node) {
	text, err := os.ReadFile(filepath.Join(n.RunDir, tunnel.GatewayPortFile))
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("127.1.2.3", string(text))
	server := n.Pod(strict, "s")
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4321}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
	if err := h.SetTLVs([]proxyproto.TLV{
		{Type: model.ProxyOwner, Value: []byte("gateway/strict/g0")},
		{Type: model.ProxyIdentity, Value: []byte("spiffe://cluster.local/ns/strict/sa/g0")},
		{Type: model.ProxyDestination, Value: []byte(netip.AddrPortFrom(server.Address, firstPort).String())},
	}); err != nil {
		t.Fatal(err)
	}
	header, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	for name, sent := range map[string][]byte{"a header": header, "nothing": nil, "bytes": []byte("GET / HTTP/1.1\r\n\r\n")} {
		if err := say(at, sent); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}

// say connects, sends, and reads to the end.
func say(at string, b []byte) error {
	c, err := net.DialTimeout("tcp", at, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	// A write of no bytes takes a reset too, and the read after it sees the end.
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadAll(c)
	return err
}

// run plays all cases. Without expectations it gives what is to be expected: no case may time out then. Through a Gateway, a
// client may also observe what it does directly: where nobody listens, Envoy alone would close its connection.
func (p path) run(t *testing.T, want, direct map[string]observed) map[string]observed {
	var mu sync.Mutex
	out := map[string]observed{}
	room := make(chan struct{}, atOnce)
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			if c.needs == needsIPv4 && !p.to.Is4() || c.needs == needsUrgent && p.authenticated || c.ownSockets && p.gateway != "" {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				room <- struct{}{}
				defer func() { <-room }()
				got, err := p.play(i)
				if err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				out[c.name] = got
				mu.Unlock()
				expected := got
				if want != nil {
					expected = want[c.name]
				}
				if p.authenticated {
					expected.Client = refusedLate(expected.Client, got.Client)
				}
				if d := refusedLate(direct[c.name].Client, got.Client); p.gateway != "" && want != nil && slices.Equal(d, got.Client) {
					expected.Client = d
				}
				compare(t, "client", expected.Client, got.Client)
				compare(t, "server", expected.Server, got.Server)
			})
		}
	})
	return out
}

// play holds the i-th conversation.
func (p path) play(i int) (observed, error) {
	port := uint16(firstPort + i)
	names := map[netip.Addr]string{}
	for pod, name := range map[*lab.Pod]string{p.client.pod: "the client", p.server.pod: "the server"} {
		names[pod.Address], names[pod.Address6] = name, name
	}
	to := p.to
	if p.gateway != "" {
		to = gatewayIP(p.gateway, i)
	}
	return converse(p.client, p.server, order{
		Case: cases[i].name, To: netip.AddrPortFrom(to, port), Server: port, Names: names,
	})
}

// refusedLate lets a client see a reset where nobody listens: when the destination is asked, connect() has succeeded.
func refusedLate(want, got []string) []string {
	want = slices.Clone(want)
	for i := range want {
		if i < len(got) && strings.Contains(want[i], "ECONNREFUSED") && strings.Contains(got[i], "ECONNRESET") {
			want[i] = got[i]
		}
	}
	return want
}

// sessions counts the connections of others to the port of weft tunnel and to that of HBONE in a pod.
func sessions(t *testing.T, pod *lab.Pod) (tunnel, hbone int) {
	t.Helper()
	err := pod.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range all {
				switch s.ID.SourcePort {
				case model.PortTunnel:
					tunnel += established(s)
				case model.PortHBONE:
					hbone += established(s)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tunnel, hbone
}

func established(s *netlink.Socket) int {
	if s.ID.DestinationPort == 0 {
		return 0 // it listens
	}
	return 1
}

func compare(t *testing.T, who string, want, got []string) {
	t.Helper()
	if slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "timeout") }) || !slices.Equal(want, got) {
		t.Errorf("the %s observed:\n\t%s\nwant:\n\t%s", who, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func start(t *testing.T) *sandbox.Node {
	t.Helper()
	n, err := sandbox.New(sandbox.Options{
		Name: "wclear", Subnet: netip.MustParsePrefix("10.86.0.0/24"), ServiceSubnet: netip.MustParsePrefix("10.98.0.0/24"),
		Binary: testenv.Weft(t), Envoy: testenv.Envoy(t), AgentArgs: []string{"--log-level=debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Apply(t.Context(), fstest.MapFS{"clear/all.yaml": {Data: []byte(manifest())}}, "clear"); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// Namespaces of pods that are not authenticated, and of pods that are.
const plain, strict = "plain", "strict"

// paths gives the direct paths first.
func paths(t *testing.T, n *sandbox.Node) []path {
	process := func(pod *lab.Pod) *process { return startProcess(t, pod) }
	outside := func(name string) *lab.Pod {
		p, err := n.Lab.AddPod(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	oc, os := process(outside("oc")), process(outside("os"))
	pc, ps := process(n.Pod(plain, "c")), process(n.Pod(plain, "s"))
	sc, ss := process(n.Pod(strict, "c")), process(n.Pod(strict, "s"))
	return []path{
		{"direct", oc, os, os.pod.Address, false, ""},
		{"direct, IPv6", oc, os, os.pod.Address6, false, ""},
		{"kernel", pc, ps, serviceIP(plain), false, ""},
		{"kernel, IPv6", pc, ps, serviceIP6(plain), false, ""},
		{"tunnel", sc, ss, serviceIP(strict), true, ""},
		{"tunnel, IPv6", sc, ss, serviceIP6(strict), true, ""},
		{"Gateway", oc, ps, netip.IPv4Unspecified(), false, plain},
		{"Gateway, tunnel", oc, ss, netip.IPv4Unspecified(), true, strict},
	}
}

var namespaces = []string{plain, strict}

func serviceIP(ns string) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 98, 0, byte(10 + slices.Index(namespaces, ns))})
}

func serviceIP6(ns string) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x98, 15: byte(10 + slices.Index(namespaces, ns))})
}

func manifest() string {
	var b strings.Builder
	b.WriteString(`---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
`)
	for _, ns := range namespaces {
		mode := map[string]string{plain: "disabled", strict: "strict"}[ns]
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {weft.io/mtls: %s}}\n", ns, mode)
		for _, name := range []string{"c", "s"} {
			fmt.Fprintf(&b, `---
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[2]s, namespace: %[1]s}
---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec: {serviceAccountName: %[2]s}
`, ns, name)
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: %s}
spec:
  clusterIP: %[2]s
  clusterIPs: ["%[2]s", "%[3]s"]
  ipFamilyPolicy: RequireDualStack
  selector: {app: s}
  ports:
`, ns, serviceIP(ns), serviceIP6(ns))
		ports(&b)
		// Servers listen in the family that their clients use, and a Gateway chooses among both.
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: s4, namespace: %s}
spec:
  clusterIP: None
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv4]
  selector: {app: s}
  ports:
`, ns)
		ports(&b)
		gateways(&b, ns)
	}
	return b.String()
}

func ports(b *strings.Builder) {
	for i := range cases {
		fmt.Fprintf(b, "    - {name: p%[1]d, port: %[1]d}\n", firstPort+i)
	}
}

// perGateway is how many ports a Gateway has: the API allows 64 listeners.
const perGateway = 60

// gatewayIP is the address at which a Gateway listens for the i-th conversation.
func gatewayIP(ns string, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, byte(slices.Index(namespaces, ns)), byte(1 + i/perGateway)})
}

// gateways writes Gateways with a port and a TCPRoute for each case.
func gateways(b *strings.Builder, ns string) {
	for i := range cases {
		if i%perGateway == 0 {
			fmt.Fprintf(b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g%d, namespace: %s}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: %s}]
  listeners:
`, i/perGateway, ns, gatewayIP(ns, i))
			for j := i; j < min(i+perGateway, len(cases)); j++ {
				fmt.Fprintf(b, "    - {name: p%[1]d, protocol: TCP, port: %[1]d}\n", firstPort+j)
			}
		}
	}
	for i := range cases {
		name, port := fmt.Sprint("g", i/perGateway), firstPort+i
		fmt.Fprintf(b, `---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: p%[3]d, namespace: %[2]s}
spec:
  parentRefs: [{name: %[1]s, sectionName: p%[3]d}]
  rules: [{backendRefs: [{name: s4, port: %[3]d}]}]
`, name, ns, port)
	}
}
