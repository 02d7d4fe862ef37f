package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube/crds"
)

// Environment is what a cluster has that matters to a mesh.
type Environment struct {
	Nodes []Node
	// CRDs are those of the Gateway API and of weft.io that are looked for.
	CRDs []CRD
	// KubeProxy is the DaemonSet's namespace/name, or "".
	KubeProxy string
	Meshes    []OtherMesh
	Cilium    *Cilium
}

// Node is a node of the cluster.
type Node struct {
	Name, Kernel, OS, Runtime string
	Linux, Ready              bool
}

// CRD is a CustomResourceDefinition; one that is not installed has no Served versions.
type CRD struct {
	Name        string // gateways.gateway.networking.k8s.io
	Served      []string
	Established bool
	// Bundle and Channel are the Gateway API's annotations: v1.7.0, standard or experimental.
	Bundle, Channel string
	// Read reports whether a version is served that is read: see crds.Versions.
	Read bool
	// HasField reports whether objects have a field, as crds.HasField does; nil where no version is served that is read.
	HasField func(path string) bool `json:"-"`
}

// OtherMesh is another mesh's part that would take connections too.
type OtherMesh struct {
	Name  string // Istio, Linkerd
	Where string // DaemonSet/istio-system/ztunnel
	// Namespaces are those that it is configured to take.
	Namespaces []string
}

// Cilium is its configuration, as far as it takes connections at the socket.
type Cilium struct {
	// SocketLB is true where Cilium balances at the cgroup root; HostOnly restricts that to the host's namespace.
	SocketLB, HostOnly bool
}

// gatewayCRDs, experimentalCRDs and weftCRDs are looked for: what is read, and what is read where it is there.
var (
	gatewayCRDs = []string{
		"gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes",
		"referencegrants", "backendtlspolicies", "listenersets",
	}
	experimentalCRDs = []string{"xtelemetrypolicies"}
	weftCRDs         = []string{"addresspools", "authorizationpolicies"}
)

const (
	gatewayGroup      = "gateway.networking.k8s.io"
	experimentalGroup = "gateway.networking.x-k8s.io"
	weftGroup         = "weft.io"
)

// Environment asks for all of it. What cannot be read is in the error; the rest is given all the same.
func (c *Cluster) Environment(ctx context.Context) (Environment, error) {
	var e Environment
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	var err error
	e.Nodes, err = c.Nodes(ctx)
	note(err)
	e.CRDs, err = c.crds(ctx)
	note(err)
	sets, err := list[appsv1.DaemonSet](ctx, c, "/apis/apps/v1/daemonsets", "", metadataOnly)
	note(err)
	for _, s := range sets {
		if s.Name == "kube-proxy" || s.Labels["k8s-app"] == "kube-proxy" {
			e.KubeProxy = s.Namespace + "/" + s.Name
		}
	}
	e.Meshes, err = c.meshes(ctx, sets)
	note(err)
	e.Cilium, err = c.cilium(ctx)
	note(err)
	return e, errors.Join(errs...)
}

// Nodes asks for the nodes.
func (c *Cluster) Nodes(ctx context.Context) ([]Node, error) {
	nodes, err := list[corev1.Node](ctx, c, "/api/v1/nodes", "", "")
	var out []Node
	for _, n := range nodes {
		info := n.Status.NodeInfo
		out = append(out, Node{
			Name: n.Name, Kernel: info.KernelVersion, OS: info.OSImage, Runtime: info.ContainerRuntimeVersion,
			Linux: cmp.Or(info.OperatingSystem, n.Labels[corev1.LabelOSStable]) == "linux",
			Ready: slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}),
		})
	}
	return out, err
}

func (c *Cluster) crds(ctx context.Context) ([]CRD, error) {
	var out []CRD
	for group, names := range map[string][]string{gatewayGroup: gatewayCRDs, experimentalGroup: experimentalCRDs, weftGroup: weftCRDs} {
		for _, plural := range names {
			name := plural + "." + group
			got, err := get[apiextensionsv1.CustomResourceDefinition](ctx, c, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+name)
			if err != nil && !absent(err) {
				return out, err
			}
			d := CRD{
				Name: name, Bundle: got.Annotations[gatewayGroup+"/bundle-version"], Channel: got.Annotations[gatewayGroup+"/channel"],
				Established: slices.ContainsFunc(got.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
					return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
				}),
			}
			if schema := crds.SchemaOf(&got); schema != nil {
				d.Read = true
				d.HasField = func(path string) bool { return crds.HasField(schema, path) }
			}
			for _, v := range got.Spec.Versions {
				if v.Served {
					d.Served = append(d.Served, v.Name)
				}
			}
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b CRD) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// meshes finds other meshes by the names and labels that their own charts give.
func (c *Cluster) meshes(ctx context.Context, sets []appsv1.DaemonSet) ([]OtherMesh, error) {
	var out []OtherMesh
	for _, s := range sets {
		switch {
		case s.Name == "ztunnel" || s.Labels["app"] == "ztunnel", s.Name == "istio-cni-node" || s.Labels["k8s-app"] == "istio-cni-node":
			out = append(out, OtherMesh{Name: "Istio", Where: fmt.Sprintf("DaemonSet/%s/%s", s.Namespace, s.Name)})
		case s.Name == "linkerd-cni" || s.Labels["k8s-app"] == "linkerd-cni":
			out = append(out, OtherMesh{Name: "Linkerd", Where: fmt.Sprintf("DaemonSet/%s/%s", s.Namespace, s.Name)})
		}
	}
	var errs []error
	for _, k := range []struct{ mesh, selector string }{
		{"Istio", "app=istiod"}, {"Linkerd", "linkerd.io/control-plane-component=proxy-injector"},
	} {
		found, err := list[appsv1.Deployment](ctx, c, "/apis/apps/v1/deployments", k.selector, metadataOnly)
		errs = append(errs, err)
		for _, d := range found {
			out = append(out, OtherMesh{Name: k.mesh, Where: fmt.Sprintf("Deployment/%s/%s", d.Namespace, d.Name)})
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	spaces, err := list[metav1.PartialObjectMetadata](ctx, c, "/api/v1/namespaces", "", metadataOnly)
	for i := range out {
		for _, n := range spaces {
			if takes(out[i].Name, n) {
				out[i].Namespaces = append(out[i].Namespaces, n.Name)
			}
		}
	}
	return out, errors.Join(append(errs, err)...)
}

// takes reports whether a mesh is configured to take a namespace's pods.
func takes(mesh string, n metav1.PartialObjectMetadata) bool {
	switch mesh {
	case "Istio":
		_, revision := n.Labels["istio.io/rev"]
		return n.Labels["istio.io/dataplane-mode"] == "ambient" || n.Labels["istio-injection"] == "enabled" || revision
	case "Linkerd":
		return n.Annotations["linkerd.io/inject"] == "enabled" || n.Annotations["linkerd.io/inject"] == "ingress"
	}
	return false
}

func (c *Cluster) cilium(ctx context.Context) (*Cilium, error) {
	m, err := get[corev1.ConfigMap](ctx, c, "/api/v1/namespaces/kube-system/configmaps/cilium-config")
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	replaces := m.Data["kube-proxy-replacement"]
	return &Cilium{
		SocketLB: m.Data["bpf-lb-sock"] == "true" || replaces == "true" || replaces == "strict",
		HostOnly: m.Data["bpf-lb-sock-hostns-only"] == "true",
	}, nil
}
