//go:build cluster

package controller

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weft-mesh/weft/internal/cli"
)

// TestAnalyzeAPIServer reads a real API server with the rights that the documentation names, and not one more.
func TestAnalyzeAPIServer(t *testing.T) {
	w := newWorld(t)
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "gateways", "listenersets", "httproutes", "tlsroutes", "referencegrants", "backendtlspolicies")...)
	w.install("../../install/crds/weft.io_addresspools.yaml", "../../install/crds/weft.io_authorizationpolicies.yaml")
	w.create(class)
	w.create(pool)
	w.create(service)
	w.create(strings.Replace(gw, "listeners: [", "listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nobody-may-read}]}}, ", 1))
	w.create(route("good", ""))
	w.create(strings.Replace(route("bad", ""), "name: s,", "name: gone,", 1))
	w.create(`{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: tls, namespace: default}, spec: {
  targetRefs: [{group: "", kind: Service, name: s}], validation: {hostname: s.example, caCertificateRefs: [{group: "", kind: ConfigMap, name: not-there}]}}}`)
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: bank, labels: {weft.io/mtl: strict}}}`)
	w.create(analyzeRole(t))
	w.create(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: ann}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-analyze}, subjects: [{kind: User, name: ann}]}`)
	w.create(`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: bob, namespace: default}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-analyze}, subjects: [{kind: User, name: bob}]}`)

	var all string
	w.until("who has the role reads all", func() bool {
		var err error
		all, err = w.analyze("ann")
		return errors.Is(err, cli.ErrUnhealthy)
	})
	for _, want := range []string{`there is no Service "default/gone"`, "ConfigMap", "Namespace/bank"} {
		if !strings.Contains(all, want) {
			t.Errorf("there is no %q:\n%s", want, all)
		}
	}
	for _, not := range []string{"nobody-may-read", "HTTPRoute/default/good", "Not permitted", "Read only"} {
		if strings.Contains(all, not) {
			t.Errorf("there is %q:\n%s", not, all)
		}
	}
	for _, user := range []string{"ann", "bob"} {
		for _, resource := range []string{"flows", "config", "authorizationpolicies"} {
			if got, want := w.mayList(user, "weft.io", resource), resource == "authorizationpolicies"; got != want {
				t.Errorf("%s may list %s of weft.io in the namespace: %v, want %v", user, resource, got, want)
			}
		}
	}
	if out, err := w.analyze("bob"); err == nil || !strings.Contains(err.Error(), "you may not list namespaces, pods, services") {
		t.Errorf("a role in one namespace: %v\n%s", err, out)
	}
	out, err := w.analyze("bob", "-n", "default")
	if !errors.Is(err, cli.ErrUnhealthy) || !strings.Contains(out, `there is no Service "default/gone"`) || strings.Contains(out, "bank") || strings.Contains(out, "NoClass") {
		t.Errorf("a role in one namespace, which is named: %v\n%s", err, out)
	}
	if out, err := w.analyze("", "--secrets"); !errors.Is(err, cli.ErrUnhealthy) || !strings.Contains(out, `there is no Secret "default/nobody-may-read"`) {
		t.Errorf("with Secrets: %v\n%s", err, out)
	}
}

// mayList reports whether a user has the right to list a resource in the namespace default.
func (w *world) mayList(user, group, resource string) bool {
	w.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{"system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Group: group, Resource: resource},
	}}
	got, err := kubernetes.NewForConfigOrDie(w.cfg).AuthorizationV1().SubjectAccessReviews().Create(w.Context(), review, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return got.Status.Allowed
}

// analyze runs the command as a user, or as the administrator.
func (w *world) analyze(user string, args ...string) (string, error) {
	w.Helper()
	config, err := clientcmd.LoadFromFile(w.api.Kubeconfig)
	if err != nil {
		w.Fatal(err)
	}
	for _, u := range config.AuthInfos {
		u.Impersonate = user
	}
	file := filepath.Join(w.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		w.Fatal(err)
	}
	var out bytes.Buffer
	cmd := cli.New(cli.Options{})
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"analyze", "--kubeconfig", file}, args...))
	err = cmd.ExecuteContext(w.Context())
	return out.String(), err
}

// analyzeRole returns the ClusterRole that the documentation shows.
func analyzeRole(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "```") {
		if yaml, ok := strings.CutPrefix(block, "yaml\n"); ok && strings.Contains(yaml, "name: weft-analyze") {
			return yaml
		}
	}
	t.Fatal("docs/troubleshooting.md shows no ClusterRole weft-analyze")
	return ""
}
