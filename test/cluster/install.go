package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	weftNamespace = "weft-system"
	weftImages    = "ghcr.io/weft-mesh/"
)

// weftParts are the workloads that the chart makes.
var weftParts = []string{"daemonset/weft-agent", "daemonset/weft-proxy", "deployment/weft-controller"}

// PoolName is the AddressPool that InstallWeft makes of Pool.
const PoolName = "cluster"

// InstallWeft builds the repository's Weft and installs it as its users do: the CRDs of the Gateway API and its own, and
// what its chart gives. It waits until all of it runs. Where Weft is installed already it is an upgrade, which rolls out
// what has changed. The working directory must be in the repository.
func (c *Cluster) InstallWeft(ctx context.Context) error {
	root, err := modulePath(ctx, "github.com/weft-mesh/weft")
	if err != nil {
		return err
	}
	tag, err := c.weftImages(ctx, root)
	if err != nil {
		return err
	}
	c.log.Info("installing Weft", "tag", tag)
	if err := c.InstallGatewayAPI(ctx); err != nil {
		return err
	}
	if err := c.installCRDs(ctx, "-f", filepath.Join(root, "install/crds")); err != nil {
		return err
	}
	manifest, err := renderWeft(ctx, root, tag)
	if err != nil {
		return err
	}
	pool := fmt.Sprintf("---\napiVersion: weft.io/v1alpha1\nkind: AddressPool\nmetadata: {name: %s}\nspec: {addresses: [%s]}\n", PoolName, Pool)
	out, err := c.Kubectl(ctx, append(manifest, pool...), "apply", "--server-side", "--force-conflicts", "-f", "-")
	if err != nil {
		return fmt.Errorf("install Weft: %w: %s", err, tail(out, 10))
	}
	return c.weftRuns(ctx)
}

// weftImages builds the images, gives them to the nodes and names their tag, which tells what is in them: what changes
// is rolled out, and nothing else.
func (c *Cluster) weftImages(ctx context.Context, root string) (tag string, err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "weft")
	cmd := exec.CommandContext(ctx, "go", "run", "./install/images", "-arch", runtime.GOARCH, "-libc", "host", "-out", dir, "-tag", "test")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build Weft's images: %w: %s", err, tail(out, 10))
	}
	for _, image := range []string{"weft", "weft-controller"} {
		archive := filepath.Join(dir, image+"-"+runtime.GOARCH+".tar")
		img, err := tarball.ImageFromPath(archive, nil)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", archive, err)
		}
		id, err := img.ConfigName()
		if err != nil {
			return "", fmt.Errorf("image %s: %w", archive, err)
		}
		if tag == "" { // weft holds all that weft-controller does
			tag = "test-" + id.Hex[:12]
		}
		for _, n := range c.nodes {
			if err := c.giveImage(ctx, n.name, archive, weftImages+image, tag); err != nil {
				return "", err
			}
		}
	}
	return tag, nil
}

// giveImage imports an archive into a node and names the image by the tag, unless the node has it.
func (c *Cluster) giveImage(ctx context.Context, node, archive, image, tag string) error {
	have, err := c.ctr(ctx, node, "images", "list", "--quiet", "name=="+image+":"+tag)
	if err != nil || have != "" {
		return err
	}
	_, imported := c.ctr(ctx, node, "images", "import", archive)
	_, tagged := c.ctr(ctx, node, "images", "tag", "--force", image+":test", image+":"+tag)
	return errors.Join(imported, tagged)
}

// ctr runs containerd's client in a node and gives what it printed.
func (c *Cluster) ctr(ctx context.Context, node string, args ...string) (string, error) {
	cmd, err := c.NodeCommand(ctx, node, append([]string{c.bin["ctr"], "--namespace", "k8s.io"}, args...)...)
	if err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("node %s: ctr %s: %w: %s", node, strings.Join(args, " "), err, tail(errs.Bytes(), 3))
	}
	return strings.TrimSpace(out.String()), nil
}

// ExportedNamespace is the namespace whose flows the cluster's agents write to their logs.
const ExportedNamespace = "e2e-flows"

// renderWeft renders the chart with this cluster's values: no kube-proxy serves the API server's Service, and each node
// has a cgroup of its own for a root.
func renderWeft(ctx context.Context, root, tag string, more ...string) ([]byte, error) {
	values := append(more,
		"namespace.create=true", "metrics.istioNames=true", "flows.export.stdout=true", "flows.export.filter.namespace={"+ExportedNamespace+"}",
		"image.tag="+tag, "image.pullPolicy=Never", "cgroup.hostRoot="+nodeCgroups,
		"kubernetes.apiServer.host="+APIAddress.Addr().String(), "kubernetes.apiServer.port="+strconv.Itoa(int(APIAddress.Port())),
	)
	cmd := exec.CommandContext(ctx, "go", "run", ".", "-set", strings.Join(values, ","))
	cmd.Dir = filepath.Join(root, "install/render")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("render the chart: %w: %s", err, tail(errs.Bytes(), 10))
	}
	return out.Bytes(), nil
}

// RemoveWeft takes Weft off the nodes, as its users do: the chart with the value cleanup, in place of what runs, until
// each node says that it is done. CRDs, namespace and CA stay. InstallWeft brings it back.
func (c *Cluster) RemoveWeft(ctx context.Context) error {
	root, err := modulePath(ctx, "github.com/weft-mesh/weft")
	if err != nil {
		return err
	}
	image, err := c.Kubectl(ctx, nil, "--namespace", weftNamespace, "get", "daemonset/weft-agent", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	if err != nil {
		return fmt.Errorf("which Weft is installed? %w: %s", err, tail(image, 3))
	}
	_, tag, _ := strings.Cut(string(image), ":")
	manifest, err := renderWeft(ctx, root, tag, "cleanup=true")
	if err != nil {
		return err
	}
	const cleanup = "daemonset/weft-cleanup"
	for _, step := range []struct {
		in   []byte
		args []string
	}{
		{nil, append([]string{"delete", "--wait", "--timeout=120s"}, weftParts...)},
		{manifest, []string{"apply", "--server-side", "--force-conflicts", "-f", "-"}},
		{nil, []string{"rollout", "status", cleanup, "--timeout=120s"}},
		{nil, []string{"delete", "--wait", "--timeout=60s", cleanup}},
	} {
		if out, err := c.Kubectl(ctx, step.in, append([]string{"--namespace", weftNamespace}, step.args...)...); err != nil {
			pods, _ := c.Kubectl(ctx, nil, "--namespace", weftNamespace, "get", "pods", "--output=wide")
			logs, _ := c.Kubectl(ctx, nil, "--namespace", weftNamespace, "logs", "--selector=app.kubernetes.io/component=cleanup", "--prefix", "--tail=5")
			return fmt.Errorf("take Weft off: kubectl %s: %w: %s\n%s\n%s", strings.Join(step.args, " "), err, tail(out, 10), pods, logs)
		}
	}
	return nil
}

// weftRuns waits until the parts have rolled out, for three minutes each at most.
func (c *Cluster) weftRuns(ctx context.Context) error {
	for _, part := range weftParts {
		out, err := c.Kubectl(ctx, nil, "--namespace", weftNamespace, "rollout", "status", part, "--timeout=180s")
		if err != nil {
			pods, _ := c.Kubectl(ctx, nil, "--namespace", weftNamespace, "get", "pods", "--output=wide")
			return fmt.Errorf("%s does not run: %w: %s\n%s\nsee kubectl -n %s describe pods, and logs", part, err, tail(out, 3), pods, weftNamespace)
		}
	}
	return nil
}

// modulePath is the folder of a module, as go.mod has it.
func modulePath(ctx context.Context, module string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the module %s: %w: run in the repository", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}
