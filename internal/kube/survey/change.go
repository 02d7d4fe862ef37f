package survey

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/remotecommand"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// fieldManager is the owner of what Apply writes.
const fieldManager = "weft-cli"

// maxPrinted bounds what is kept of what a command prints.
const maxPrinted = 1 << 20

// Apply makes the object at a path, or changes it, by server-side apply. object is JSON.
func (c *Cluster) Apply(ctx context.Context, path string, object []byte) error {
	err := c.rest.Patch(types.ApplyPatchType).AbsPath(path).Param("fieldManager", fieldManager).Param("force", "true").Body(object).Do(ctx).Error()
	if err != nil {
		return c.failed(path, err)
	}
	return nil
}

// Delete removes the object at a path. It is no error if there is none.
func (c *Cluster) Delete(ctx context.Context, path string) error {
	if err := c.rest.Delete().AbsPath(path).Do(ctx).Error(); err != nil && !absent(err) {
		return c.failed(path, err)
	}
	return nil
}

// Labels returns those of the object at a path. ok is false if there is none.
func (c *Cluster) Labels(ctx context.Context, path string) (labels map[string]string, ok bool, err error) {
	o, err := get[metav1.PartialObjectMetadata](ctx, c, path)
	if absent(err) {
		return nil, false, nil
	}
	return o.Labels, err == nil, err
}

// AnyPod is a Pod of anybody.
type AnyPod struct {
	Name, Address string
	Ready         bool
	Why           string // it is not ready, as far as its status tells
}

// PodsIn returns all Pods of a namespace.
func (c *Cluster) PodsIn(ctx context.Context, namespace string) ([]AnyPod, error) {
	pods, err := list[corev1.Pod](ctx, c, "/api/v1/namespaces/"+namespace+"/pods", "", "")
	var out []AnyPod
	for i := range pods {
		p := AnyPod{Name: pods[i].Name, Address: pods[i].Status.PodIP}
		p.Ready, p.Why = readiness(&pods[i])
		out = append(out, p)
	}
	return out, err
}

// AddressOf returns the first address of the Service or Gateway at a path; "" while it has none.
func (c *Cluster) AddressOf(ctx context.Context, path string) (string, error) {
	if strings.Contains(path, "/gateways/") {
		g, err := get[gwv1.Gateway](ctx, c, path)
		if err != nil || len(g.Status.Addresses) == 0 {
			return "", err
		}
		return g.Status.Addresses[0].Value, nil
	}
	s, err := get[corev1.Service](ctx, c, path)
	return s.Spec.ClusterIP, err
}

// HasAddressPool reports whether there is an AddressPool.
func (c *Cluster) HasAddressPool(ctx context.Context) (bool, error) {
	pools, err := list[metav1.PartialObjectMetadata](ctx, c, "/apis/weft.io/v1alpha1/addresspools", "", metadataOnly)
	return len(pools) > 0, err
}

// Exec runs a command in a container and returns what it printed. The error holds what it said, or why it could not run.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, command ...string) ([]byte, error) {
	run, err := c.command(namespace, pod, container, false, command...)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	var said limited
	err = run.StreamWithContext(quiet(ctx), remotecommand.StreamOptions{Stdout: &bounded{&out}, Stderr: &said})
	if text := strings.TrimSpace(said.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return out.Bytes(), err
}

// bounded keeps the first maxPrinted bytes.
type bounded struct{ *bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxPrinted - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
