package cluster

import (
	"context"
	"fmt"
	"path/filepath"
)

// InstallGatewayAPI installs the CRDs of the Gateway API's experimental channel, of the version that go.mod requires, and
// waits until they are served.
func (c *Cluster) InstallGatewayAPI(ctx context.Context) error {
	root, err := modulePath(ctx, "sigs.k8s.io/gateway-api")
	if err != nil {
		return err
	}
	return c.installCRDs(ctx, "--kustomize", filepath.Join(root, "config", "crd", "experimental"))
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
