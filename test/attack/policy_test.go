package attack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// relabelledService: a Service that a policy names, and that selects other pods while no agent runs, takes no pod out of
// the policy. A policy that is deleted is forgotten.
func relabelledService(t *testing.T, a *arena) string {
	service := func(app string) string {
		return `apiVersion: v1
kind: Service
metadata: {name: guarded, namespace: open}
spec: {clusterIP: 10.96.77.4, selector: {app: ` + app + `}, ports: [{port: 80, targetPort: 8080}]}
`
	}
	to := netip.AddrPortFrom(a.open.Address, 8080)
	if err := reached(a.outsider, to); err != nil {
		t.Fatalf("the pod has no policy yet: %v", err)
	}
	a.put(t, "guarded.yaml", service("server"))
	a.put(t, "guard.yaml", `apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: guard, namespace: open}
spec:
  targetRefs: [{kind: Service, name: guarded}]
  action: ALLOW
  rules: [{sources: [{type: Namespace, namespace: bank}]}]
`)
	until(t, "the policy is in force", func() error {
		if reached(a.outsider, to) == nil {
			return errors.New("an outsider is answered")
		}
		return reached(a.client, to)
	})

	if err := a.StopAgent(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := a.Write("guarded.yaml", []byte(service("nobody"))); err != nil {
		t.Fatal(err)
	}
	if err := a.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := a.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	const tries = 50
	for range tries {
		if reached(a.outsider, to) == nil {
			t.Error("an outsider is answered after the Service changed and the agent restarted")
			break
		}
	}
	if err := reached(a.client, to); err != nil {
		t.Errorf("who is allowed: %v", err)
	}

	if err := os.Remove(filepath.Join(a.Manifests(), "guard.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, "a policy that is deleted is forgotten", func() error { return reached(a.outsider, to) })
	return fmt.Sprintf("%d connections refused", tries)
}
