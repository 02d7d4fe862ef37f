//go:build cluster

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/testenv"
	"github.com/weft-mesh/weft/test/cluster"
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
	const ours, theirs = cluster.ExportedNamespace, "e2e-flows-other"
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
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-viewer}
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
	viewer.checkMap(ours, theirs)
	viewer.checkRows(ours, theirs)
	checkExport(t, ours, theirs)
	for want, u := range map[string]*hubbleUser{
		"PermissionDenied": newHubbleUser(t, ours, "nobody"),
		"Unauthenticated":  {t: t, command: viewer.command, ca: viewer.ca, server: viewer.server, token: "made-up"},
	} {
		if out, err := u.run("observe"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: %s", want, err, out)
		}
	}
}

// checkExport: the agents' logs have the flows of one namespace, and of no other, as lines of JSON.
func checkExport(t *testing.T, ours, theirs string) {
	t.Helper()
	eventually(t, settle, func() error {
		found := false
		for l := range strings.Lines(kubectl(t, "--namespace", system, "logs", "--selector", "app.kubernetes.io/component=agent", "--tail=-1")) {
			var line struct {
				Node string
				observe.Event
			}
			if json.Unmarshal([]byte(l), &line) != nil || line.Flow == nil {
				continue // of the agent's own log
			}
			if strings.Contains(l, theirs+"/") {
				t.Errorf("a flow of %s is exported: %s", theirs, l)
			}
			from, to := line.Flow.Source.Workload, line.Flow.Destination.Workload
			found = found || line.Node != "" && strings.HasPrefix(from, ours+"/client") && strings.HasPrefix(to, ours+"/web")
		}
		if !found {
			return errors.New("no log of an agent has the namespace's flow")
		}
		return nil
	})
}

// checkRows: weft config, status and edges show what is of the namespace, and nothing of another one or of nodes.
func (u *hubbleUser) checkRows(ours, theirs string) {
	u.t.Helper()
	weft := testenv.Weft(u.t)
	token := filepath.Join(u.t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(u.token), 0o600); err != nil {
		u.t.Fatal(err)
	}
	for _, args := range []string{"config services", "config endpoints", "status", "edges --for 0s"} {
		eventually(u.t, settle, func() error {
			ctx, cancel := bounded(u.t)
			defer cancel()
			cmd, err := nodeProcess(ctx, "n1", append(append([]string{weft}, strings.Fields(args)...), "-o", "json",
				"--server", strings.TrimPrefix(u.server, "tls://"), "--server-ca", u.ca, "--token-file", token)...)
			if err != nil {
				return err
			}
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err == nil && strings.Contains(string(out), theirs) {
				u.t.Errorf("weft %s shows namespace %s: %s", args, theirs, out)
			}
			if err == nil && !strings.Contains(string(out), ours) {
				err = fmt.Errorf("nothing of %s: %s", ours, out)
			}
			if err != nil {
				return fmt.Errorf("weft %s: %w: %s", args, err, &errs)
			}
			return nil
		})
	}
}

// checkMap waits until the service map has the namespace's call, and checks that it has nothing of another one, that its
// page is served, and that nobody sees it without a token.
func (u *hubbleUser) checkMap(ours, theirs string) {
	u.t.Helper()
	eventually(u.t, settle, func() error {
		if a := call(u.t, ours, "client", "http://"+clusterIP(u.t, ours, "web")); a.Status != 200 { // the map is of the last seconds
			return fmt.Errorf("%+v", a)
		}
		status, body, err := u.get("/v1/map", u.token)
		if err != nil || status != "200" {
			return fmt.Errorf("the map: %s %w: %s", status, err, body)
		}
		var g servicemap.Graph
		if err := json.Unmarshal([]byte(body), &g); err != nil {
			return fmt.Errorf("the map: %w: %s", err, body)
		}
		if strings.Contains(body, theirs) {
			u.t.Errorf("the map shows namespace %s: %s", theirs, body)
		}
		if !slices.ContainsFunc(g.Edges, func(e servicemap.Edge) bool {
			return strings.HasPrefix(e.From, ours+"/Deployment/client") && strings.HasPrefix(e.To, ours+"/Deployment/web") && e.Connections > 0
		}) {
			return fmt.Errorf("the map has no edge from client to web: %s", body)
		}
		return nil
	})
	for path, tc := range map[string]struct{ token, status, text string }{
		"/":       {"", "200", "<html"},
		"/v1/map": {"made-up", "401", ""},
	} {
		if status, body, err := u.get(path, tc.token); err != nil || status != tc.status || !strings.Contains(body, tc.text) {
			u.t.Errorf("%s: %s %v: %s", path, status, err, body)
		}
	}
}

// get asks the map's Service from a node.
func (u *hubbleUser) get(path, token string) (status, body string, err error) {
	ctx, cancel := bounded(u.t)
	defer cancel()
	host := "weft-flows." + system + ".svc"
	cmd, err := nodeProcess(ctx, "n1", "curl", "-s", "--cacert", u.ca, "--connect-to", host+":8443:"+clusterIP(u.t, system, "weft-flows")+":8443",
		"-H", "Authorization: Bearer "+token, "-w", "\n%{http_code}", "https://"+host+":8443"+path)
	if err != nil {
		return "", "", err
	}
	out, err := cmd.Output()
	at := strings.LastIndexByte(string(out), '\n')
	if err != nil || at < 0 {
		return "", "", fmt.Errorf("curl %s: %w: %s", path, err, out)
	}
	return string(out[at+1:]), string(out[:at]), nil
}
