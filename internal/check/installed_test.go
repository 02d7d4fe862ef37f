package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
)

var checkedAt = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

// root gives a certificate in PEM that ends at a time.
func root(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.AddDate(-1, 0, 0), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// whole gives a cluster of two nodes with nothing wrong.
func whole(t *testing.T) *Installed {
	part := func(kind, name, image string, args ...string) survey.Part {
		return survey.Part{Kind: kind, Name: name, Version: "0.1.0", Image: image, Args: args, Observed: true, Want: 2, Updated: 2, Ready: 2}
	}
	agent := func(node string) Agent {
		return Agent{Node: node, Status: api.Status{
			Synced: true, Healthy: true, Agent: api.Agent{Version: "0.1.0"}, CNI: &model.CNI{File: "/etc/cni/net.d/10-net.conflist"},
			Datapath: api.Datapath{Hooks: []api.Hook{{Name: "connect4"}}}, Proxy: api.Proxy{State: "LIVE", Connected: true},
		}}
	}
	all := gatewayCRDs("v1.7.0", "standard")
	for _, n := range []string{"addresspools", "authorizationpolicies"} {
		all = append(all, survey.CRD{Name: n + ".weft.io", Served: []string{"v1alpha1"}, Established: true})
	}
	return &Installed{
		Host: "https://api:6443", Version: "v1.37.2", Now: checkedAt,
		Installation: survey.Installation{
			Namespace: "weft-system",
			Parts: []survey.Part{
				part("DaemonSet", "weft-agent", "r:5000/weft:0.1.0", "agent", "--cni", "--ca=controller"),
				part("DaemonSet", "weft-proxy", "r:5000/weft:0.1.0"), part("Deployment", "weft-controller", "r:5000/weft-controller:0.1.0@sha256:1"),
			},
			Pods: []survey.Pod{
				{Name: "weft-agent-a", Component: "agent", Node: "a", Ready: true}, {Name: "weft-agent-b", Component: "agent", Node: "b", Ready: true},
				{Name: "weft-controller-1", Component: "controller", Node: "a", Ready: true},
			},
			Nodes:       []survey.Node{{Name: "a", Linux: true, Ready: true}, {Name: "b", Linux: true, Ready: true}, {Name: "w"}},
			CRDs:        all,
			Classes:     []survey.Class{{Name: "weft", Controller: gateway.ControllerName, Accepted: true}, {Name: "other", Controller: "x"}},
			Leader:      survey.Leader{Holder: "weft-controller-1"},
			TrustBundle: root(t, checkedAt.AddDate(1, 0, 0)),
		},
		Agents: []Agent{agent("a"), agent("b")},
	}
}

func TestInstalledWhole(t *testing.T) {
	all := whole(t).Check()
	for _, r := range all {
		if r.Level != OK {
			t.Errorf("%+v", r)
		}
	}
	expect(t, all, "a, b", OK, "CNI plugin in /etc/cni/net.d/10-net.conflist (a, b)")
	expect(t, all, "trust bundle", OK, "1 roots, the last ends at 2031-05-01T12:00:00Z")
	expect(t, all, "GatewayClass", OK, "accepted: weft")
}

func TestInstalledWrong(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*Installed)
		line   string
		level  Level
		text   string
	}{
		{"nothing", func(i *Installed) { i.Parts, i.Pods = nil, nil }, "Weft", Fail, "not installed in namespace weft-system"},
		{"no proxy", func(i *Installed) { i.Parts = i.Parts[:1] }, "weft-proxy", Fail, "is not there"},
		{"not ready", func(i *Installed) {
			i.Parts[0].Ready = 1
			i.Pods[1].Ready, i.Pods[1].Why = false, "ImagePullBackOff"
		}, "weft-agent", Fail, "1 of 2 pods are ready; weft-agent-b: ImagePullBackOff"},
		{"rolls out", func(i *Installed) { i.Parts[1].Updated = 1 }, "weft-proxy", Warn, "1 of 2 pods run"},
		{"cleanup left", func(i *Installed) {
			i.Pods = append(i.Pods, survey.Pod{Name: "weft-cleanup-a", Component: "cleanup", Node: "a"})
		}, "weft-cleanup", Fail, "still there"},
		{"releases", func(i *Installed) { i.Parts[1].Version = "0.2.0" }, "versions", Fail, "0.1.0 (weft-agent, weft-controller), 0.2.0 (weft-proxy)"},
		{"images", func(i *Installed) { i.Parts[2].Image = "r/weft-controller:0.2.0" }, "versions", Fail, "0.2.0 (weft-controller)"},
		{"running", func(i *Installed) { i.Agents[1].Status.Agent.Version = "0.0.9" }, "versions", Warn, "0.0.9 (b), 0.1.0 (a)"},
		{"no CRD", func(i *Installed) { i.CRDs[5].Served = nil }, "Weft's CRDs", Fail, "addresspools.weft.io is not there"},
		{"CRD of another version", func(i *Installed) { i.CRDs[6].Served = []string{"v1"} }, "Weft's CRDs", Fail, "serves v1, not v1alpha1"},
		{"class refused", func(i *Installed) { i.Classes[0].Accepted, i.Classes[0].Why = false, "Unsupported" }, "GatewayClass", Fail, "weft is not accepted: Unsupported"},
		{"Gateway without a class", func(i *Installed) {
			i.Gateways = []survey.Gateway{{Namespace: "shop", Name: "edge", Class: "wefft"}, {Namespace: "shop", Name: "good", Class: "other"}}
		}, "Gateways", Warn, "nobody serves them: shop/edge (wefft)"},
		{"no class", func(i *Installed) { i.Classes = i.Classes[1:] }, "GatewayClass", Fail, "none is of"},
		{"no leader", func(i *Installed) { i.Leader.Holder = "" }, "controller's Lease", Fail, "nobody"},
		{"dead leader", func(i *Installed) { i.Leader.Holder = "weft-controller-0" }, "controller's Lease", Fail, "no pod any more"},
		{"sick leader", func(i *Installed) { i.Pods[2].Ready = false }, "controller's Lease", Fail, "is not ready"},
		{"no bundle", func(i *Installed) { i.TrustBundle = "" }, "trust bundle", Fail, "no ConfigMap"},
		{"no bundle and none wanted", func(i *Installed) { i.TrustBundle, i.Parts[0].Args = "", []string{"--cni"} }, "trust bundle", Warn, "roots of its own"},
		{"bad bundle", func(i *Installed) { i.TrustBundle = "x" }, "trust bundle", Fail, "no certificate"},
		{"ended bundle", func(i *Installed) { i.Now = checkedAt.AddDate(2, 0, 0) }, "trust bundle", Fail, "every root has ended"},
		{"no agent", func(i *Installed) { i.Pods = i.Pods[1:] }, "a", Fail, "no agent runs"},
		{"agent not ready", func(i *Installed) { i.Pods[0].Ready, i.Pods[0].Why, i.Nodes[0].Ready = false, "starting", false }, "a", Fail, "(the node is not ready): starting"},
		{"agent silent", func(i *Installed) { i.Agents[0].Err = errors.New("no route") }, "a", Fail, "no route"},
		{"not synced", func(i *Installed) { i.Agents[0].Status.Synced = false }, "a", Fail, "not read everything"},
		{"no hooks", func(i *Installed) { i.Agents[0].Status.Datapath.Hooks = nil }, "a", Fail, "no eBPF program is attached"},
		{"a hook was detached", func(i *Installed) { i.Agents[0].Status.Datapath.Hooks[0].Error = "the program was detached" }, "a", Fail, "hook connect4: the program was detached"},
		{"no Envoy", func(i *Installed) { i.Agents[0].Status.Proxy = api.Proxy{Error: "gone"} }, "a", Fail, "Envoy is not live: gone"},
		{"Envoy alone", func(i *Installed) { i.Agents[0].Status.Proxy.Connected = false }, "a", Fail, "not connected"},
		{"faults", func(i *Installed) { i.Agents[1].Status.Faults = []string{"map x is full", "y"} }, "b", Fail, "map x is full; and 1 more"},
		{"a Gateway without an address", func(i *Installed) {
			i.Agents[0].Status.Gateways = []*model.Gateway{{Namespace: "edge", Name: "public"}}
		}, "Gateways", Warn, "edge/public"},
		{"a bad route", func(i *Installed) {
			i.Agents[1].Status.Troubles = []api.Trouble{{Object: model.ObjectRef{Kind: "HTTPRoute", Namespace: "ns", Name: "r"}}}
		}, "objects", Warn, "HTTPRoute/ns/r"},
		{"no plugin", func(i *Installed) { i.Agents[1].Status.CNI.File = "" }, "b", Fail, "in no network configuration"},
		{"plugin not wanted", func(i *Installed) { i.Parts[0].Args, i.Agents[0].Status.CNI = []string{"--ca=controller"}, nil }, "CNI plugin", Warn, "not installed"},
		{"network policies", func(i *Installed) {
			i.NetworkPolicies = []survey.NetworkPolicy{{Namespace: "shop", Name: "old", HBONE: true}, {Namespace: "shop", Name: "new", HBONE: true, Tunnel: true}}
		}, "network policies", Warn, "shop/old let port 15008 pass and not 15009"},
		{"unread", func(i *Installed) { i.Unread = errors.New("forbidden") }, "what can be read", Warn, "forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := whole(t)
			c.damage(i)
			all := i.Check()
			expect(t, all, c.line, c.level, c.text)
			for _, r := range all {
				if r.Level != OK && r.Remedy == "" {
					t.Errorf("%s: no remedy", r.Name)
				}
			}
		})
	}
}

func TestTagOf(t *testing.T) {
	for image, want := range map[string]string{
		"ghcr.io/weft-mesh/weft:0.1.0": "0.1.0", "r:5000/weft": "", "r:5000/weft:1@sha256:ab": "1", "weft@sha256:ab": "",
	} {
		if got := tagOf(image); got != want {
			t.Errorf("%s: %q", image, got)
		}
	}
}
