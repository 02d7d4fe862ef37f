package transparency

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
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
}

// TestTransparency compares every path of the mesh with the direct one.
func TestTransparency(t *testing.T) {
	testenv.Root(t)
	n := start(t)
	direct := map[bool]map[string]observed{} // by family
	for _, p := range paths(t, n) {
		v4 := p.to.Is4()
		var base map[string]observed
		if !t.Run(p.name, func(t *testing.T) {
			base = p.run(t, direct[v4])
			if tunnel, hbone := sessions(t, p.client.pod); p.authenticated && (tunnel == 0 || hbone > 0) {
				t.Errorf("%d connections to weft tunnel and %d to HBONE: another way was taken", tunnel, hbone)
			}
		}) {
			t.Log(n.Logs())
		}
		if direct[v4] == nil {
			direct[v4] = base
		}
	}
}

// run plays all cases. Without expectations it gives what is to be expected: no case may time out then.
func (p path) run(t *testing.T, want map[string]observed) map[string]observed {
	var mu sync.Mutex
	out := map[string]observed{}
	room := make(chan struct{}, atOnce)
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			if c.needs == needsIPv4 && !p.to.Is4() || c.needs == needsUrgent && p.authenticated {
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
	return converse(p.client, p.server, order{
		Case: cases[i].name, To: netip.AddrPortFrom(p.to, port), Server: port, Names: names,
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

// sessions counts a pod's connections to the port of weft tunnel and to that of HBONE in other pods.
func sessions(t *testing.T, pod *lab.Pod) (tunnel, hbone int) {
	t.Helper()
	err := pod.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range all {
				switch s.ID.DestinationPort {
				case model.PortTunnel:
					tunnel++
				case model.PortHBONE:
					hbone++
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
		{"direct", oc, os, os.pod.Address, false},
		{"direct, IPv6", oc, os, os.pod.Address6, false},
		{"kernel", pc, ps, serviceIP(plain), false},
		{"kernel, IPv6", pc, ps, serviceIP6(plain), false},
		{"tunnel", sc, ss, serviceIP(strict), true},
		{"tunnel, IPv6", sc, ss, serviceIP6(strict), true},
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
		for i := range cases {
			fmt.Fprintf(&b, "    - {name: p%[1]d, port: %[1]d}\n", firstPort+i)
		}
	}
	return b.String()
}
