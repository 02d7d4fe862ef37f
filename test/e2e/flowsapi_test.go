//go:build cluster

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// hubbleUser asks the flows API by Hubble's own command, on a node, as a ServiceAccount.
type hubbleUser struct {
	t                   *testing.T
	command, ca, server string
	token               string
}

func newHubbleUser(t *testing.T, namespace, account string) *hubbleUser {
	dir := t.TempDir()
	u := &hubbleUser{t: t, command: filepath.Join(dir, "hubble"), ca: filepath.Join(dir, "ca.crt")}
	build := exec.Command("go", "build", "-trimpath", "-o", u.command, "github.com/cilium/cilium/hubble")
	build.Dir, build.Env = filepath.Join(mesh.root, "test/hubble"), append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the hubble command: %v: %s", err, out)
	}
	bundle := kubectl(t, "-n", system, "get", "configmap", "weft-trust-bundle", "-o", `jsonpath={.data.ca\.crt}`)
	if err := os.WriteFile(u.ca, []byte(bundle), 0o600); err != nil {
		t.Fatal(err)
	}
	u.server = "tls://" + clusterIP(t, system, "weft-flows") + ":443"
	u.token = strings.TrimSpace(kubectl(t, "-n", namespace, "create", "token", account, "--audience", "flows.weft.io"))
	return u
}

// run gives standard output; the error has standard error.
func (u *hubbleUser) run(args ...string) (string, error) {
	ctx, cancel := bounded(u.t)
	defer cancel()
	cmd, err := nodeProcess(ctx, "n1", append([]string{u.command}, append(args, "--server", u.server, "--tls-ca-cert-files", u.ca,
		"--tls-server-name", "weft-flows.weft-system.svc", "--basic-auth-username", "token", "--basic-auth-password", u.token)...)...)
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("hubble %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// TestFlowsAPI: who may see one namespace sees its flows and no others, without pods/exec, by Hubble's own command.
func TestFlowsAPI(t *testing.T) {
	const ours, theirs = "e2e-flows", "e2e-flows-other"
	for _, ns := range []string{ours, theirs} {
		namespace(t, ns, "")
		deploy(t, deployment{namespace: ns, name: "client"}, deployment{namespace: ns, name: "web"})
		apply(t, service(ns, "web", "web"))
	}
	apply(t, `apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer, namespace: e2e-flows}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: nobody, namespace: e2e-flows}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: e2e-flows}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-flows-viewer}
subjects: [{kind: ServiceAccount, name: viewer, namespace: e2e-flows}]
`)
	viewer := newHubbleUser(t, ours, "viewer")
	eventually(t, settle, func() error { // a right that was refused a moment ago is asked for again after a while
		out, err := viewer.run("list", "nodes")
		for _, n := range mesh.Nodes() {
			if err == nil && !strings.Contains(out, n) {
				err = fmt.Errorf("no node %s in %s", n, out)
			}
		}
		return err
	})
	eventually(t, settle, func() error {
		for _, ns := range []string{ours, theirs} {
			if a := call(t, ns, "client", "http://"+clusterIP(t, ns, "web")); a.Status != 200 {
				return fmt.Errorf("%s: %+v", ns, a)
			}
		}
		out, err := viewer.run("observe", "--last", "1000", "--from-pod", ours+"/client", "--to-pod", ours+"/web", "--verdict", "FORWARDED")
		if err == nil && !strings.Contains(out, ours+"/web-") {
			err = errors.New("no flow of the namespace: " + out)
		}
		return err
	})
	for _, args := range [][]string{{"observe", "--last", "1000"}, {"observe", "--last", "1000", "--namespace", theirs}, {"list", "namespaces"}} {
		out, err := viewer.run(args...)
		if err != nil || strings.Contains(out, theirs) {
			t.Errorf("hubble %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for want, u := range map[string]*hubbleUser{
		"PermissionDenied": newHubbleUser(t, ours, "nobody"),
		"Unauthenticated":  {t: t, command: viewer.command, ca: viewer.ca, server: viewer.server, token: "made-up"},
	} {
		if out, err := u.run("observe"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: %s", want, err, out)
		}
	}
}
