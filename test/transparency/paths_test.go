package transparency

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-mesh/weft/internal/sandbox"
)

// path is a way from a client to a server.
type path struct {
	name           string
	client, server *process
	to             func(i int) netip.Addr // in the i-th conversation
	like           string                 // the path that it is compared with; "" for one without the mesh
	by             string
	prelude        []byte   // what the client must send first
	without        []string // cases that are not played: see differences_test.go
}

// What carries the bytes of a path to the server's pod.
const (
	byItself = ""
	byTunnel = "weft tunnel"
	byHBONE  = "HBONE"
)

// Names of paths without the mesh.
const (
	direct  = "direct"
	direct6 = "direct, IPv6"
	within  = "direct, within a pod"
)

// Namespaces of pods that have no identity, that must be authenticated, and that have an identity and a policy that looks at
// requests, on another port than those of the cases.
const plain, strict, guarded = "plain", "strict", "guarded"

var namespaces = []string{plain, strict, guarded}

// Services of a namespace: s selects the server's pod; r and t select nothing and have a TCPRoute or TLSRoute for each port,
// which leads to s; d selects the server's pod and does not say that its ports speak no HTTP.
const bySelector, byTCPRoute, byTLSRoute, detected = "s", "r", "t", "d"

var services = []string{bySelector, byTCPRoute, byTLSRoute, detected}

// processes holds the processes of a node that play.
type processes struct {
	oc, os *process // of pods outside of the mesh
	of     map[string]map[string]*process
}

func startProcesses(t *testing.T, n *sandbox.Node, namespaces ...string) processes {
	t.Helper()
	outside := func(name string) *process {
		p, err := n.Lab.AddPod(name)
		if err != nil {
			t.Fatal(err)
		}
		return startProcess(t, p)
	}
	e := processes{oc: outside("oc"), os: outside("os"), of: map[string]map[string]*process{}}
	for _, ns := range namespaces {
		e.of[ns] = map[string]*process{}
		for _, name := range []string{"c", "s"} {
			e.of[ns][name] = startProcess(t, n.Pod(ns, name))
		}
	}
	return e
}

func at(a netip.Addr) func(int) netip.Addr { return func(int) netip.Addr { return a } }

// paths gives the direct paths first.
func paths(t *testing.T, n *sandbox.Node) []path {
	t.Helper()
	e := startProcesses(t, n, namespaces...)
	hello := clientHello(t)
	out := []path{
		{name: direct, client: e.oc, server: e.os, to: at(e.os.pod.Address)},
		{name: direct6, client: e.oc, server: e.os, to: at(e.os.pod.Address6)},
		{name: within, client: e.os, server: e.os, to: at(e.os.pod.Address)},
	}
	for _, x := range []struct{ ns, by string }{{plain, byItself}, {strict, byTunnel}} {
		c, s := e.of[x.ns]["c"], e.of[x.ns]["s"]
		to := func(service string) func(int) netip.Addr { return at(serviceIP(x.ns, service)) }
		suffix := ""
		if x.by == byTunnel {
			suffix = ", " + byTunnel
		}
		out = append(out,
			path{name: "Service" + suffix, client: c, server: s, to: to(bySelector), like: direct, by: x.by},
			path{name: "Service, IPv6" + suffix, client: c, server: s, to: at(serviceIP6(x.ns)), like: direct6, by: x.by},
			path{name: "TCPRoute" + suffix, client: c, server: s, to: to(byTCPRoute), like: direct, by: x.by},
			path{name: "TLSRoute" + suffix, client: c, server: s, to: to(byTLSRoute), like: direct, by: x.by, prelude: hello, without: slices.Concat(byEnvoy, beforeAnswer, bothEnd)},
			path{name: "hairpin" + suffix, client: s, server: s, to: to(bySelector), like: within},
			path{name: "Gateway" + suffix, client: e.oc, server: s, to: atGateway(x.ns, "4"), like: direct, by: x.by, without: byEnvoy},
			path{name: "Gateway, IPv6" + suffix, client: e.oc, server: s, to: atGateway(x.ns, "6"), like: direct6, by: x.by, without: byEnvoy},
		)
	}
	return append(out,
		path{name: "policy", client: e.of[plain]["c"], server: e.of[guarded]["s"], to: at(serviceIP(guarded, bySelector)), like: direct, without: slices.Concat(byEnvoy, samePorts)},
		path{name: "detection", client: e.of[plain]["c"], server: e.of[guarded]["s"], to: at(serviceIP(guarded, detected)), like: direct, without: slices.Concat(byEnvoy, samePorts)},
		path{name: "policy, weft tunnel", client: e.of[strict]["c"], server: e.of[guarded]["s"], to: at(serviceIP(guarded, bySelector)), like: direct, by: byTunnel},
	)
}

// hbonePaths are those of a node whose bytes do not go by weft tunnel.
func hbonePaths(t *testing.T, n *sandbox.Node) []path {
	t.Helper()
	e := startProcesses(t, n, strict)
	c, s := e.of[strict]["c"], e.of[strict]["s"]
	return []path{
		{name: direct, client: e.oc, server: e.os, to: at(e.os.pod.Address)},
		{name: direct6, client: e.oc, server: e.os, to: at(e.os.pod.Address6)},
		{name: "Service, HBONE", client: c, server: s, to: at(serviceIP(strict, bySelector)), like: direct, by: byHBONE, without: slices.Concat(byEnvoy, bothEnd, stalls)},
		{name: "Service, IPv6, HBONE", client: c, server: s, to: at(serviceIP6(strict)), like: direct6, by: byHBONE, without: slices.Concat(byEnvoy, bothEnd, stalls)},
	}
}

// serverName is the host that TLSRoutes have.
const serverName = "tls.example"

// clientHello gives the first bytes of a TLS connection to serverName.
func clientHello(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: serverName}).Handshake() }() // it ends as the pipe does
	b := make([]byte, 16<<10)
	size, err := server.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:size]
}
