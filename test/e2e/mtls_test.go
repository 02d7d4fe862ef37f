//go:build cluster

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/test/e2e/workload"
)

// rounds is how long a short load lasts.
const rounds = 3 * time.Second

// TestMTLSByLabel labels a namespace while a pod of it on one node calls another on the other, and reads what passes the
// link between the nodes: first the request, afterwards TLS alone. No pod is restarted.
func TestMTLSByLabel(t *testing.T) {
	ns, street := "e2e-bank", "e2e-street"
	namespace(t, ns, "")
	namespace(t, street, "")
	apply(t, service(ns, "vault", "vault")+service(ns, "routed", "vault")+route(ns, "routed", "routed", backend{"routed", 1}))
	deploy(t, deployment{namespace: ns, name: "teller", node: "n1", account: "teller"},
		deployment{namespace: ns, name: "vault", node: "n2", account: "vault"},
		deployment{namespace: street, name: "passerby", node: "n1"})
	teller, vault := podOf(t, ns, "teller"), podOf(t, ns, "vault")
	services := map[string]string{"bytes": clusterIP(t, ns, "vault"), "requests": clusterIP(t, ns, "routed"), "pod": vault.Status.PodIP + ":8080"}

	for kind, at := range services {
		if tr := captured(t, ns, "teller", at); !tr.Contains(marker) {
			t.Errorf("%s: before the label the request is not on the link: the capture proves nothing", kind)
		}
	}
	kubectl(t, "label", "namespace", ns, "weft.io/mtls=strict")
	authenticated(t, ns, vault.Status.PodIP, street)
	for kind, at := range services {
		t.Run(kind, func(t *testing.T) {
			onlyTLS(t, captured(t, ns, "teller", at), teller.Status.PodIP, vault.Status.PodIP, model.PortTunnel)
		})
	}
	t.Run("identities", func(t *testing.T) { identitiesSeen(t, ns) })
	t.Run("outside", func(t *testing.T) {
		for kind, at := range services {
			if a := call(t, street, "passerby", "http://"+at+"/"); a.Status != 0 && a.Backend != "" {
				t.Errorf("%s: the vault answers who has no identity: %+v", kind, a)
			}
		}
		if a := workload.Call(t.Context(), "http://"+vault.Status.PodIP+":8080/", "", nil); a.Status != 0 {
			t.Errorf("the vault answers this machine, which is outside: %+v", a)
		}
	})
	for _, p := range []pod{podOf(t, ns, "teller"), podOf(t, ns, "vault")} {
		if p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s was restarted", p.Metadata.Name)
		}
	}
}

// marker is in requests, to be looked for on the link.
const marker = "e2e-open-sesame"

// captured calls from a Deployment's pod for a while, and gives what passed the link of n1 meanwhile.
func captured(t *testing.T, ns, client, at string) *capture.Traffic {
	t.Helper()
	link, err := mesh.Link("n1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := capture.Start(link)
	if err != nil {
		t.Fatal(err)
	}
	f := begin(t, both(flow{name: "teller", namespace: ns, client: client,
		spec: workload.Spec{URL: "http://" + at + "/" + marker, Workers: 1, Rate: 50}})...)
	keepFlowing(rounds)
	f.end()
	tr, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// authenticated waits until the vault refuses who has no identity: from then on its namespace is strict.
func authenticated(t *testing.T, ns, vault, street string) {
	t.Helper()
	took := eventually(t, settle, func() error {
		if a := call(t, street, "passerby", "http://"+vault+":8080/"); a.Status != 0 {
			return fmt.Errorf("%s answers in the clear: %+v", ns, a)
		}
		return nil
	})
	measured(t, "from the label to the first refusal", took)
}

// onlyTLS wants bytes at a port, and beside them at most those that keep idle connections to the other port of the mesh.
func onlyTLS(t *testing.T, tr *capture.Traffic, a, b string, port uint16) {
	t.Helper()
	from, to := netip.MustParseAddr(a), netip.MustParseAddr(b)
	ports := tr.Between(from, to)
	measured(t, "bytes on the link by port", fmt.Sprint(ports))
	switch {
	case tr.Contains(marker):
		t.Error("the request is on the link in the clear")
	case ports[port] == 0 || len(others(ports)) > 0:
		t.Errorf("bytes on the link by port: %v, want port %d", ports, port)
	case !tr.TLSOnly(from, to):
		t.Error("what is on the link does not begin as TLS does")
	}
}

// others are the ports that are not the mesh's.
func others(ports map[uint16]int) map[uint16]int {
	out := maps.Clone(ports)
	delete(out, model.PortTunnel)
	delete(out, model.PortHBONE)
	return out
}

// identitiesSeen reads from both nodes' flows whom each end saw.
func identitiesSeen(t *testing.T, ns string) {
	id := func(account string) string { return "spiffe://cluster.local/ns/" + ns + "/sa/" + account }
	for _, node := range mesh.Nodes() {
		eventually(t, settle, func() error {
			out := weft(t, node, "observe", "-o", "json", "-n", ns, "--layer", "mTLS", "--last", "1000")
			for _, line := range strings.Split(out, "\n") {
				if strings.Contains(line, id("teller")) && strings.Contains(line, id("vault")) && json.Valid([]byte(line)) {
					return nil
				}
			}
			return fmt.Errorf("no flow on %s has both identities in:\n%.2000s", node, out)
		})
	}
}

// weft runs a command of the CLI in a node's agent.
func weft(t testing.TB, node string, args ...string) string {
	t.Helper()
	return kubectl(t, append([]string{"-n", system, "exec", agentOn(t, node).Metadata.Name, "--", "weft"}, args...)...)
}

const agentLabel = "app.kubernetes.io/component=agent"

// agentOn gives a node's agent.
func agentOn(t testing.TB, node string) pod {
	t.Helper()
	for _, p := range podsOf(t, system, agentLabel) {
		if p.Spec.NodeName == node {
			return p
		}
	}
	t.Fatalf("node %s has no agent", node)
	return pod{}
}
