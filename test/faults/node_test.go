package faults

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/examples"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

// node is what all faults are done to.
type node struct {
	*sandbox.Node
	client, teller, janitor, passerby, vault *lab.Pod
	web, vaultService, vaultPod              netip.AddrPort

	// plain is somebody outside of the mesh before a strict pod: it must never get in. routed is a client of a route,
	// authenticated one whose requests go over mTLS.
	plain, routed, authenticated *watcher
}

// TestFaults does one thing after the other to a node that serves.
func TestFaults(t *testing.T) {
	testenv.Root(t)
	n := startNode(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *node)
		// outage: clients may fail meanwhile, but nothing strict is in the clear
		outage bool
	}{
		{"Secrets", secrets, false},
		{"OwnPorts", ownPorts, false},
		{"SecondAgent", secondAgent, false},
		{"BadManifests", badManifests, false},
		{"Rejected", rejected, false},
		{"FolderVanishes", folderVanishes, false},
		{"NamespaceIsGone", namespaceIsGone, false},
		{"PodsFlip", podsFlip, false},
		{"AgentKilled", agentKilled, false},
		{"EventsLost", eventsLost, false},
		{"FullDisk", fullDisk, false},
		{"EnvoyKilled", envoyKilled, true},
		{"BrokenPolicyAtStart", brokenPolicyAtStart, true},
		{"Logs", logs, false},
	} {
		t.Run(part.name, func(t *testing.T) {
			defer func() {
				n.plain.check(t)
				if part.outage {
					n.routed.forget(t)
					n.authenticated.forget(t)
				}
				n.routed.check(t)
				n.authenticated.check(t)
				if t.Failed() {
					n.tail(t)
				}
			}()
			part.run(t, n)
		})
	}
}

// startNode starts a node and what watches it.
func startNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.plain = watch(t, "a plain client of a strict pod", func() error {
		if status, body, err := get(n.passerby, n.vaultPod, "/plain"); err == nil {
			return fmt.Errorf("it got in: %d %q", status, body)
		}
		return nil
	})
	n.routed = watch(t, "a client of a route", func() error { return ok(get(n.client, n.web, "/")) })
	n.authenticated = watch(t, "a client with an identity", func() error { return ok(get(n.teller, n.vaultService, "/")) })
	return n
}

// newNode starts a node, its agent with some more flags.
func newNode(t *testing.T, args ...string) *node {
	t.Helper()
	_ = unix.Unmount("/run/wflt/run", unix.MNT_DETACH) // of a run that was killed
	s, err := sandbox.New(sandbox.Options{
		Name: "wflt", Subnet: netip.MustParsePrefix("10.86.0.0/24"), Binary: buildWeft(t), Envoy: testenv.Envoy(t),
		AgentArgs: append([]string{"--log-level=debug"}, args...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	smallDisk(t, s.RunDir)
	for _, example := range []string{"canary", "mtls"} {
		if err := s.Apply(t.Context(), examples.FS, example); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{
		Node: s, client: s.Pod("canary", "client"), teller: s.Pod("bank", "teller"), janitor: s.Pod("bank", "janitor"),
		passerby: s.Pod("street", "passerby"), vault: s.Pod("bank", "vault"),
		web: netip.AddrPortFrom(s.ServiceIP("canary", "web"), 80), vaultService: netip.AddrPortFrom(s.ServiceIP("bank", "vault"), 80),
	}
	n.vaultPod = netip.AddrPortFrom(n.vault.Address, 8080)
	if err := s.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func ok(status int, body string, err error) error {
	if err == nil && status != 200 {
		err = fmt.Errorf("status %d: %q", status, body)
	}
	return err
}

// refused is what somebody gets whom a policy does not allow: a refusal, or a connection that ends without an answer.
func refused(status int, body string, err error) error {
	if err == nil && status != 403 {
		return fmt.Errorf("status %d: %q", status, body)
	}
	return nil
}

func (n *node) tail(t *testing.T) {
	for _, f := range []string{n.AgentLog(), filepath.Join(n.RunDir, "proxy.log")} {
		text, _ := os.ReadFile(f)
		lines := strings.Split(string(text), "\n")
		t.Logf("%s:\n%s", f, strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

func (n *node) ready(t *testing.T) {
	t.Helper()
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// status asks the agent, which may be about to start.
func (n *node) status(t *testing.T) (st api.Status) {
	t.Helper()
	eventually(t, "the agent answers", func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		st, err = n.API.Status(ctx)
		return err
	})
	return st
}

// faulty waits until the status names each of some texts among its faults.
func (n *node) faulty(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, "the status tells", func() error {
		st := n.status(t)
		all := strings.Join(st.Faults, "\n")
		for _, p := range st.Folder.Problems {
			all += fmt.Sprintf("\n%s:%d %s %s", p.File, p.Line, p.Object, p.Reason)
		}
		for _, r := range st.Rejections {
			all += "\nEnvoy refused " + r.Resource + ": " + r.Message
		}
		for _, w := range want {
			if !strings.Contains(all, w) {
				return fmt.Errorf("no %q in %s", w, all)
			}
		}
		return nil
	})
}

// healthy waits until nothing is wrong any more.
func (n *node) healthy(t *testing.T) {
	t.Helper()
	eventually(t, "the node is healthy", func() error {
		switch st := n.status(t); {
		case !st.Healthy:
			return errors.New(strings.Join(st.Faults, "; "))
		case len(st.Folder.Problems) > 0:
			return fmt.Errorf("not taken as written: %v", st.Folder.Problems)
		case len(st.Rejections) > 0:
			return fmt.Errorf("refused by Envoy: %v", st.Rejections)
		}
		return nil
	})
}

func (n *node) remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(n.Manifests(), file)); err != nil {
		t.Fatal(err)
	}
}

func (n *node) put(t *testing.T, file, text string) {
	t.Helper()
	if err := n.Write(file, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// An agent that cannot run ends at once and says why; the one that runs notices nothing.
func secondAgent(t *testing.T, n *node) {
	other := []string{"--run", filepath.Join(n.Dir, "other"), "--state", filepath.Join(n.Dir, "other-state")}
	same := []string{"--run", n.RunDir, "--state", filepath.Join(n.Dir, "state")}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"pins of the first, sockets of its own": {other, "another weft agent"},
		"no such manifests":                     {append(same, "--manifests", filepath.Join(n.Dir, "none")), "none"},
		"a cgroup outside":                      {append(same, "--proxy-cgroup", "../x"), "below the cgroup2 mount"},
		"an address in use":                     {append(same, "--health-address", "192.0.2.77:1"), "--health-address"},
	} {
		out, code := runWith(t, start{}, n.Binary, append([]string{
			"agent", "--manifests", n.Manifests(), "--node-address", "192.0.2.1", "--pins", "/sys/fs/bpf/wflt", "--proxy-cgroup", "wflt/envoy",
		}, test.args...)...)
		if code != 1 || !strings.Contains(out, test.want) {
			t.Errorf("%s: exit status %d: %s", name, code, out)
		}
	}
	n.healthy(t)
}

func badManifests(t *testing.T, n *node) {
	n.put(t, "bad.yaml", `apiVersion: v1
kind: Service
metadata: {name: typo, namespace: canary}
spec: {selectr: {app: web}}
---
apiVersion: v9
kind: Nonsense
metadata: {name: x}
---
kind: [
`)
	n.faulty(t, "bad.yaml:4", `unknown field "spec.selectr"`, "Nonsense", "bad.yaml:10")
	n.put(t, "long.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: "+strings.Repeat("a", 1<<20)+"}\n")
	n.faulty(t, "long.yaml")
	old, err := os.ReadFile(filepath.Join(n.Manifests(), "canary/route.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n.put(t, "canary/route.yaml", strings.ReplaceAll(string(old), "weight: 90", "weight: ninety"))
	n.faulty(t, "canary/route.yaml", "last good version")
	n.put(t, "canary/route.yaml", string(old))
	n.remove(t, "bad.yaml")
	n.remove(t, "long.yaml")
	n.healthy(t)
}

// Envoy refuses an expression that its RE2 finds too large, where Go's does not. The route is told so, and all others are served, those of the
// same Service that were there before too.
func rejected(t *testing.T, n *node) {
	const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: huge, namespace: canary}
spec:
  parentRefs: [{group: "", kind: Service, name: web-v1}]
  rules: [{matches: [{path: {type: RegularExpression, value: '/[acegikmoqsuwyACEGIKMOQSUWY]{900}'}}], backendRefs: [{name: web-v1, port: 80}]}]
`
	n.put(t, "huge.yaml", route)
	v1 := netip.AddrPortFrom(n.ServiceIP("canary", "web-v1"), 80)
	eventually(t, "the route says that Envoy refused it", func() error {
		_, _, _ = get(n.client, v1, "/") // Envoy asks for the table when it needs it
		for _, r := range n.status(t).Rejections {
			for _, o := range r.Objects {
				if o.String() == "HTTPRoute/canary/huge" && r.Message != "" {
					return nil
				}
			}
		}
		return fmt.Errorf("rejections: %v", n.status(t).Rejections)
	})
	n.remove(t, "huge.yaml")
	n.healthy(t)
	eventually(t, "the Service is served again", func() error { return ok(get(n.client, v1, "/")) })
}

func folderVanishes(t *testing.T, n *node) {
	away := n.Manifests() + ".away"
	if err := os.Rename(n.Manifests(), away); err != nil {
		t.Fatal(err)
	}
	n.faulty(t, "the folder cannot be read", "all that was there stays in force")
	n.routed.check(t)
	n.authenticated.check(t)
	if err := os.Rename(away, n.Manifests()); err != nil {
		t.Fatal(err)
	}
	n.healthy(t)
}

// A pod whose network namespace is not there costs nobody else anything, and neither does one that loses it.
func namespaceIsGone(t *testing.T, n *node) {
	p, err := n.Lab.AddPod("lost")
	if err != nil {
		t.Fatal(err)
	}
	pod := func(netns string) string {
		return `apiVersion: v1
kind: Pod
metadata: {name: lost, namespace: bank, annotations: {weft.io/netns: ` + netns + `, weft.io/ip: ` + p.Address.String() + `}}
spec: {serviceAccountName: teller, containers: [{name: c, image: i}]}
`
	}
	n.put(t, "lost.yaml", pod("wflt-none"))
	n.faulty(t, "wflt-none")
	n.put(t, "lost.yaml", pod(p.NetNSName))
	n.healthy(t)
	if err := syscall.Unmount(p.NetNS, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.NetNS); err != nil {
		t.Fatal(err)
	}
	n.faulty(t, p.NetNSName)
	n.remove(t, "lost.yaml")
	n.healthy(t)
}

// podsFlip lets a pod with one address and namespace go and come under other names and modes, fast, and looks for what
// that leaves behind.
func podsFlip(t *testing.T, n *node) {
	p, err := n.Lab.AddPod("flip")
	if err != nil {
		t.Fatal(err)
	}
	pod := func(i int) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: flip-%d, namespace: bank, labels: {weft.io/mtls: %s}, annotations: {weft.io/netns: %s, weft.io/ip: %s}}
spec: {serviceAccountName: sa-%d, containers: [{name: c, image: i}]}
`, i%7, []string{"strict", "permissive", "disabled"}[i%3], p.NetNSName, p.Address, i%5)
	}
	n.put(t, "flip.yaml", pod(0))
	n.healthy(t)
	before := openFiles(t, n.AgentPID())
	for i := range 300 {
		n.put(t, "flip.yaml", pod(i))
		if i%10 == 0 { // some are seen, some are overtaken
			time.Sleep(20 * time.Millisecond)
		}
	}
	n.put(t, "flip.yaml", pod(0))
	eventually(t, "the last pod is the one", func() error {
		st := n.status(t)
		var names []string
		for _, w := range st.Workloads {
			if strings.HasPrefix(w.Name, "flip-") {
				names = append(names, w.Name)
			}
		}
		if !st.Healthy || strings.Join(names, " ") != "flip-0" {
			return fmt.Errorf("%v; %v", names, st.Faults)
		}
		return nil
	})
	n.remove(t, "flip.yaml")
	n.healthy(t)
	eventually(t, "pins and open files are as before", func() error {
		pins, _ := filepath.Glob("/sys/fs/bpf/wflt/pods/*")
		if now := openFiles(t, n.AgentPID()); now > before || len(pins) != len(n.status(t).Workloads) {
			return fmt.Errorf("%d open files, were %d; %d pins for %d pods", now, before, len(pins), len(n.status(t).Workloads))
		}
		return nil
	})
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// The agent is killed and started again; its sockets are stale then. Envoy does not notice.
func agentKilled(t *testing.T, n *node) {
	envoy := n.status(t).Proxy
	for range 5 {
		if err := n.StopAgent(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(n.RunDir, "agent.sock")); err != nil {
			t.Errorf("the socket should be stale: %v", err)
		}
		if err := n.StartAgent(); err != nil {
			t.Fatal(err)
		}
		n.ready(t)
	}
	now := n.status(t).Proxy
	if now.PID != envoy.PID || now.Restarts != envoy.Restarts || now.Epoch != envoy.Epoch {
		t.Errorf("Envoy was %+v, is %+v", envoy, now)
	}
}

// The disk of the run directory is full: what runs goes on, changes are taken, and an agent starts.
func fullDisk(t *testing.T, n *node) {
	free := fill(t, n.RunDir)
	defer free()
	if err := n.Edit("canary/route.yaml", func(s string) string { return strings.ReplaceAll(s, "weight: 90", "weight: 0") }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed route is served", func() error {
		for range 20 {
			_, body, err := get(n.client, n.web, "/")
			if err != nil || !strings.Contains(body, "v2") {
				return fmt.Errorf("%q %w", body, err)
			}
		}
		return nil
	})
	if err := n.Edit("mtls/policy.yaml", func(s string) string { return strings.ReplaceAll(s, "name: teller", "name: janitor") }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed policy holds", func() error {
		return errors.Join(refused(get(n.teller, n.vaultService, "/")), ok(get(n.janitor, n.vaultService, "/")))
	})
	if err := n.Edit("mtls/policy.yaml", func(s string) string { return strings.ReplaceAll(s, "name: janitor", "name: teller") }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy is back", func() error { return ok(get(n.teller, n.vaultService, "/")) })
	n.authenticated.forget(t)
	if err := n.StopAgent(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	n.ready(t)
	if err := n.Edit("canary/route.yaml", func(s string) string { return strings.ReplaceAll(s, "weight: 0", "weight: 90") }); err != nil {
		t.Fatal(err)
	}
}

// Envoy is killed: strict pods are not reached meanwhile, and it comes back.
func envoyKilled(t *testing.T, n *node) {
	for range 3 {
		pid := n.status(t).Proxy.PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another Envoy serves", func() error {
			st := n.status(t)
			if st.Proxy.PID == pid || !st.Healthy {
				return fmt.Errorf("pid %d, %v", st.Proxy.PID, st.Faults)
			}
			return nil
		})
		n.ready(t)
		eventually(t, "clients are served", func() error {
			return errors.Join(ok(get(n.client, n.web, "/")), ok(get(n.teller, n.vaultService, "/")))
		})
	}
}

// An agent that starts with a policy that it cannot read knows no earlier version of it: it lets nobody in, rather than
// everybody.
func brokenPolicyAtStart(t *testing.T, n *node) {
	if err := ok(get(n.teller, n.vaultService, "/")); err != nil {
		t.Fatal(err)
	}
	if err := n.StopAgent(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(n.Manifests(), "mtls/policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n.put(t, "mtls/policy.yaml", strings.ReplaceAll(string(good), "type: ServiceAccount", "type: ServiceAcount"))
	nobody := watch(t, "janitor, whom no policy allows", func() error { return refused(get(n.janitor, n.vaultService, "/")) })
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	n.faulty(t, "mtls/policy.yaml", "nothing may speak to the pods that it selects")
	eventually(t, "nobody is let in", func() error { return refused(get(n.teller, n.vaultService, "/")) })
	n.put(t, "mtls/policy.yaml", string(good))
	eventually(t, "the mended policy holds", func() error { return ok(get(n.teller, n.vaultService, "/")) })
	n.healthy(t)
	nobody.check(t)
	nobody.stop()
}
