//go:build cluster

package cluster

import (
	"context"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestAPIServer(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	api, err := APIServer(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	bin, err := Build(ctx, slog.Default(), "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	kubectl := func(kubeconfig string, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, bin["kubectl"], append([]string{"--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := kubectl(api.Kubeconfig, "create", "namespace", "kept"); err != nil {
		t.Fatalf("create namespace: %v: %s", err, out)
	}

	user, err := api.KubeconfigFor("alice", "readers")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := kubectl(user, "get", "namespaces"); err == nil || !strings.Contains(out, `User "alice" cannot list`) {
		t.Errorf("a user without rights lists namespaces: %v: %s", err, out)
	}

	api.StopServing()
	client, err := api.client()
	if err != nil {
		t.Fatal(err)
	}
	if err := ready(ctx, client, api.URL); err == nil {
		t.Error("the API server answers after it was stopped")
	}
	if err := api.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := kubectl(api.Kubeconfig, "get", "namespace", "kept"); err != nil {
		t.Errorf("the namespace is gone after an outage: %v: %s", err, out)
	}
	client.CloseIdleConnections()
	if err := api.Close(); err != nil {
		t.Error(err)
	}
	if err := ready(ctx, &http.Client{}, api.URL); err == nil {
		t.Error("the API server answers after Close")
	}
}
