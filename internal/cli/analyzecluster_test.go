package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
)

// analyzed is an API server with a Gateway, whose certificate nobody may read, and routes of which one names a Service that is not
// there. changed replaces its answers.
func analyzed(t *testing.T, changed map[string]any) (kubeconfig string) {
	t.Helper()
	gateway := "/apis/gateway.networking.k8s.io/v1/"
	parent := []any{object{"name": "edge", "namespace": "edge"}}
	route := func(namespace, name, backend string) object {
		return object{"metadata": surveytest.Meta(namespace, name, nil, nil), "spec": object{
			"parentRefs": parent, "rules": []any{object{"backendRefs": []any{object{"name": backend, "port": 80}}}},
		}}
	}
	s := &surveytest.Server{Objects: map[string]any{
		"/apis/gateway.networking.k8s.io": object{"versions": []any{object{"version": "v1"}, object{"version": "v1beta1"}}},
		"/api/v1/namespaces":              []any{object{"metadata": object{"name": "shop"}}, object{"metadata": object{"name": "edge"}}, object{"metadata": object{"name": "bank", "labels": object{"weft.io/mtl": "strict"}}}},
		"/api/v1/namespaces/shop":         object{"metadata": object{"name": "shop"}},
		"/api/v1/services":                []any{object{"metadata": surveytest.Meta("shop", "web", nil, nil), "spec": object{"clusterIP": "10.96.0.7", "ports": []any{object{"port": 80}}}}},
		"/api/v1/pods": []any{
			object{"metadata": surveytest.Meta("shop", "web-1", nil, nil), "spec": object{"containers": []any{object{"name": "c"}}}, "status": object{"podIP": "10.0.0.1", "phase": "Running"}},
			object{"metadata": surveytest.Meta("shop", "ended", nil, nil), "spec": object{"containers": []any{object{"name": "c"}}}, "status": object{"podIP": "10.0.0.1", "phase": "Succeeded"}},
		},
		gateway + "gatewayclasses": []any{object{"metadata": object{"name": "weft"}, "spec": object{"controllerName": "weft.io/gateway-controller"}}},
		gateway + "gateways": []any{object{"metadata": object{"namespace": "edge", "name": "edge", "managedFields": []any{object{"manager": "kubectl"}}}, "spec": object{
			"gatewayClassName": "weft", "listeners": []any{object{
				"name": "https", "protocol": "HTTPS", "port": 443, "tls": object{"certificateRefs": []any{object{"name": "cert"}}},
				"allowedRoutes": object{"namespaces": object{"from": "All"}},
			}},
		}}},
		gateway + "httproutes":                      []any{route("shop", "good", "web"), route("shop", "bad", "gone")},
		gateway + "namespaces/shop/httproutes":      []any{route("shop", "good", "web"), route("shop", "bad", "gone")},
		"/api/v1/namespaces/edge/secrets/cert":      403,
		"/api/v1/namespaces/edge/secrets/elsewhere": 403,
	}}
	for path, answer := range changed {
		s.Objects[path] = answer
	}
	return writeKubeconfig(t, s.Start(t))
}

func TestAnalyzeCluster(t *testing.T) {
	const routes = "/apis/gateway.networking.k8s.io/v1/httproutes"
	older := func() map[string]any { // only v1beta1 of HTTPRoutes is served
		return map[string]any{routes: nil, "/apis/gateway.networking.k8s.io/v1beta1/httproutes": []any{object{
			"metadata": surveytest.Meta("shop", "old", nil, nil), "spec": object{"parentRefs": []any{}, "rules": []any{object{"backendRefs": []any{object{"name": "web", "port": 80}}}}},
		}}}
	}
	ages := map[string]any{routes: []any{}} // the older has the later name
	for name, created := range map[string]string{"a": "2021-01-01T00:00:00Z", "z": "2020-01-01T00:00:00Z"} {
		ages[routes] = append(ages[routes].([]any), object{
			"metadata": object{"namespace": "shop", "name": name, "creationTimestamp": created}, "spec": object{
				"parentRefs": []any{object{"name": "edge", "namespace": "edge"}}, "rules": []any{object{"backendRefs": []any{object{"name": "web", "port": 80}}}},
			},
		})
	}
	fixed := filepath.Join(t.TempDir(), "fixed.yaml")
	err := os.WriteFile(fixed, []byte(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad, namespace: shop}
spec: {parentRefs: [{name: edge, namespace: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args    string
		changed map[string]any
		err     error
	}{
		"all":           {"analyze", nil, ErrUnhealthy},
		"json":          {"analyze -o json -n shop", nil, ErrUnhealthy},
		"namespace":     {"analyze -n bank", nil, nil},
		"strict":        {"analyze -n bank --strict", nil, ErrUnhealthy},
		"only-one":      {"analyze -n shop", map[string]any{routes: 403, "/api/v1/namespaces": 403, "/api/v1/pods": 403}, ErrUnhealthy},
		"secrets":       {"analyze --secrets -n edge", nil, nil},
		"with-file":     {"analyze -n shop --cluster -f " + fixed, nil, nil},
		"older-version": {"analyze -n shop", older(), nil},
		"ages":          {"analyze -o json -n shop --cluster -f " + fixed, ages, nil},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, append(strings.Fields(c.args), "--kubeconfig", analyzed(t, c.changed))...)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			shown := strings.ReplaceAll("$ weft "+c.args+"\n"+out, filepath.Dir(fixed)+"/", "")
			golden(t, filepath.Join("testdata", "analyze-cluster-"+name+".txt"), hideHost(shown))
		})
	}
	for args, want := range map[string]string{
		"analyze --kubeconfig " + analyzed(t, map[string]any{routes: 403, "/api/v1/pods": 403}): "you may not list pods, httproutes.gateway.networking.k8s.io in all namespaces; use -n for one namespace",
		"analyze --kubeconfig /nowhere":           "/nowhere",
		"analyze":                                 "or name manifests by -f",
		"analyze -f " + fixed + " -n shop":        "--namespace is of a cluster, and with -f none is asked: give --cluster too",
		"analyze -f " + fixed + " --kubeconfig x": "--kubeconfig is of a cluster",
		"analyze --cluster -f /gone.yaml --kubeconfig " + analyzed(t, nil): "/gone.yaml",
		"analyze --kubeconfig " + writeKubeconfig(t, "http://127.0.0.1:1"): "does not answer",
	} {
		if out, err := run(t, strings.Fields(args)...); err == nil || errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %q: %s", args, err, want, out)
		}
	}
}

// TestAnalyzeOddNames: an API server takes references with names that no object can have, and answers questions for them with an error.
func TestAnalyzeOddNames(t *testing.T) {
	names := []string{"a%b", "a/b", ".", "..", "Upper"}
	var listeners, authorities []any
	for i, name := range names {
		listeners = append(listeners, object{"name": fmt.Sprint("l", i), "protocol": "HTTPS", "port": 443 + i, "tls": object{"certificateRefs": []any{object{"name": name}}}})
		authorities = append(authorities, object{"group": "", "kind": "ConfigMap", "name": name})
	}
	kubeconfig := analyzed(t, map[string]any{
		"/apis/gateway.networking.k8s.io/v1/gateways": []any{object{"metadata": object{"namespace": "edge", "name": "edge"}, "spec": object{"gatewayClassName": "weft", "listeners": listeners}}},
		"/apis/gateway.networking.k8s.io/v1/backendtlspolicies": []any{object{"metadata": object{"namespace": "shop", "name": "tls"}, "spec": object{
			"targetRefs": []any{object{"group": "", "kind": "Service", "name": "web"}}, "validation": object{"hostname": "web.example", "caCertificateRefs": authorities},
		}}},
	})
	for _, flag := range []string{"--secrets=true", "--secrets=false"} {
		out, err := run(t, "analyze", flag, "-o", "json", "--kubeconfig", kubeconfig)
		if !errors.Is(err, ErrUnhealthy) {
			t.Fatalf("%s: %v", flag, err)
		}
		for _, name := range names {
			if !strings.Contains(out, `there is no Secret \"edge/`+name+`\"`) {
				t.Errorf("%s: it does not say that there is no Secret %s:\n%s", flag, name, out)
			}
		}
		if !strings.Contains(out, "BackendTLSPolicy") || strings.Contains(out, `"Manifest"`) {
			t.Errorf("%s:\n%s", flag, out)
		}
	}
}

// TestAnalyzeLeavesStdin: in "while read ns; do weft analyze -n $ns; done < list" standard input is the list, of which the shell has
// read a part.
func TestAnalyzeLeavesStdin(t *testing.T) {
	list := strings.NewReader("bank\nshop\n")
	if _, err := list.Seek(5, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	cmd := newRoot(Options{}, nil)
	cmd.SetIn(list)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"analyze", "-n", "bank", "--kubeconfig", analyzed(t, nil)})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(list); err != nil || string(rest) != "shop\n" {
		t.Errorf("the rest of standard input is %q, %v", rest, err)
	}
}

// TestAnalyzeBoundsStdin: standard input that is too long is a finding, and is not read to its end.
func TestAnalyzeBoundsStdin(t *testing.T) {
	in := &spaces{}
	var out strings.Builder
	cmd := newRoot(Options{}, nil)
	cmd.SetIn(io.LimitReader(in, 10*manifests.MaxFile))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"analyze", "-f", "-", "--cluster", "-n", "bank", "--kubeconfig", analyzed(t, nil)})
	if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, ErrUnhealthy) || !strings.Contains(out.String(), "is larger than") {
		t.Errorf("%v: %s", err, &out)
	}
	if in.n > 2*manifests.MaxFile {
		t.Errorf("%d bytes were read", in.n)
	}
}

// spaces gives spaces without an end, and counts them.
type spaces struct{ n int }

func (c *spaces) Read(p []byte) (int, error) {
	c.n += len(p)
	return copy(p, bytes.Repeat([]byte(" "), len(p))), nil
}

// TestAnalyzeIsStopped: Ctrl-C ends a command that waits for standard input, and nothing of what it has read is left on the disk.
func TestAnalyzeIsStopped(t *testing.T) {
	kubeconfig, temporary := analyzed(t, nil), t.TempDir()
	t.Setenv("TMPDIR", temporary)
	for _, args := range []string{"analyze -f -", "translate -f -", "analyze -f - --cluster --kubeconfig " + kubeconfig} {
		in, end := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		cmd := newRoot(Options{}, nil)
		cmd.SetIn(in)
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(strings.Fields(args))
		done := make(chan error, 1)
		go func() { done <- cmd.ExecuteContext(ctx) }()
		if _, err := end.Write([]byte("{")); err != nil { // it reads
			t.Fatal(err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", args, err)
		}
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("%s leaves %v (%v)", args, left, err)
		}
		_ = end.CloseWithError(context.Canceled) // what reads it ends
	}
}
