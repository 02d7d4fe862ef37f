package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// InstallGatewayAPI installs the CRDs of the Gateway API's experimental channel, of the version that go.mod requires, and
// waits until they are served.
func (c *Cluster) InstallGatewayAPI(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return fmt.Errorf("find the Gateway API's module: %w: run in the repository", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "config", "crd", "experimental")
	return c.installCRDs(ctx, "--kustomize", dir)
}

// installCRDs applies on the server's side: the schemas are too large for the annotation that a client would keep.
func (c *Cluster) installCRDs(ctx context.Context, where ...string) error {
	args := append([]string{"apply", "--server-side", "--force-conflicts"}, where...)
	if out, err := c.Kubectl(ctx, nil, args...); err != nil {
		return fmt.Errorf("install CRDs of %s: %w: %s", where[1], err, tail(out, 5))
	}
	if out, err := c.Kubectl(ctx, nil, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return fmt.Errorf("CRDs of %s are not served: %w: %s", where[1], err, tail(out, 5))
	}
	return nil
}
