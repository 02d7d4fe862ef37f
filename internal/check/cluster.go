package check

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// GatewayAPI is the release whose kinds and fields Weft is built with.
const GatewayAPI = "v1.7.0"

const (
	gatewaySuffix   = ".gateway.networking.k8s.io"
	telemetryCRD    = "xtelemetrypolicies.gateway.networking.x-k8s.io"
	installCRDs     = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/" + GatewayAPI + "/standard-install.yaml"
	readableCluster = "give the user of this kubeconfig the right to read it"
)

// Cluster asks an API server for what a mesh meets there and judges it.
func Cluster(ctx context.Context, c *survey.Cluster) []Result {
	version, err := c.Version(ctx)
	if err != nil {
		r := &report{area: "cluster"}
		r.fail("API server", "see whether it runs, and whether the kubeconfig's user may ask it", "%v", err)
		return r.out
	}
	e, err := c.Environment(ctx)
	return preflight(c.Host(), version, e, err)
}

// preflight judges what was found; err is of what could not be read.
func preflight(host, version string, e survey.Environment, err error) []Result {
	r := &report{area: "cluster"}
	r.ok("API server", "%s, Kubernetes %s", host, version)
	if err != nil {
		r.warn("what can be read", readableCluster, "%v", err)
	}
	r.kernels(e.Nodes)
	r.gatewayAPI(e.CRDs)
	r.telemetry(e.CRDs)
	if e.KubeProxy == "" {
		r.ok("kube-proxy", "none; Weft balances Services for pods and for the nodes themselves")
	} else {
		r.ok("kube-proxy", "DaemonSet %s; Weft takes Services at the socket before it, and leaves it the rest", e.KubeProxy)
	}
	r.cilium(e.Cilium)
	r.meshes(e.Meshes)
	return r.out
}

// kernels gives a line for each kernel, with the nodes that have it.
func (r *report) kernels(nodes []survey.Node) {
	by := map[string][]string{}
	for _, n := range nodes {
		if n.Linux {
			by[n.Kernel] = append(by[n.Kernel], n.Name)
		}
	}
	for _, kernel := range slices.Sorted(maps.Keys(by)) {
		r.kernel("kernel of "+some(by[kernel]), kernel)
	}
	if len(by) == 0 {
		r.fail("nodes", "Weft runs on Linux nodes", "the cluster has no Linux node")
	}
}

// gatewayAPI judges the CRDs. They may come after Weft, which notices.
func (r *report) gatewayAPI(installed []survey.CRD) {
	const name = "Gateway API"
	var have, missing, absent, old, pending []string
	bundles := map[string]bool{}
	for _, d := range installed {
		kind, ok := strings.CutSuffix(d.Name, gatewaySuffix)
		switch {
		case !ok:
			continue
		case len(d.Served) == 0:
			if slices.Contains([]string{"gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"}, kind) {
				missing = append(missing, kind)
			} else {
				absent = append(absent, kind)
			}
			continue
		case !d.Established:
			pending = append(pending, kind)
		case !d.Read:
			old = append(old, kind)
		}
		have = append(have, kind)
		bundles[strings.TrimSpace(cmp.Or(d.Bundle, "unknown version")+" "+d.Channel)] = true
	}
	found := strings.Join(slices.Sorted(maps.Keys(bundles)), ", ")
	switch {
	case len(have) == 0:
		r.warn(name, installCRDs+"; before, with or after Weft: it notices", "not installed: there are no Gateways and no routes until it is")
	case len(pending) > 0:
		r.fail(name, "see the conditions of these CRDs: kubectl describe crd", "%s: not established: %s", found, strings.Join(pending, ", "))
	case len(missing) > 0:
		r.warn(name, installCRDs, "%s: not there: %s", found, strings.Join(missing, ", "))
	case len(bundles) > 1:
		r.warn(name, "install all CRDs from one release and channel: "+installCRDs, "CRDs of different releases: %s", found)
	case len(old) > 0:
		r.warn(name, installCRDs, "%s: no version is served that is read: %s", found, strings.Join(old, ", "))
	case bundles["unknown version"]:
		r.warn(name, installCRDs, "%s: %s", found, strings.Join(have, ", "))
	default:
		without := ""
		if len(absent) > 0 {
			without = "; what these are for is left out: " + strings.Join(absent, ", ")
		}
		if unknown := unknownFeatures(installed); len(unknown) > 0 {
			without += "; they have no fields for these features: " + strings.Join(unknown, ", ")
		}
		r.ok(name, "%s (Weft is built with %s): %s%s", found, GatewayAPI, strings.Join(have, ", "), without)
	}
}

// telemetry judges the CRD of XTelemetryPolicies, which is of the experimental channel and may stand beside those of the standard
// one.
func (r *report) telemetry(installed []survey.CRD) {
	const name, remedy = "XTelemetryPolicy", "take the CRD from the experimental channel of the Gateway API " + GatewayAPI
	i := slices.IndexFunc(installed, func(d survey.CRD) bool { return d.Name == telemetryCRD })
	if i < 0 {
		return // it could not be read, which another line says
	}
	switch d := installed[i]; {
	case len(d.Served) == 0:
		r.ok(name, "not installed: traces of Gateways are those of the mesh")
	case !d.Established:
		r.fail(name, "see the conditions of this CRD: kubectl describe crd "+telemetryCRD, "not established")
	case !slices.Contains(d.Served, "v1alpha1"):
		r.warn(name, remedy, "serves %s, not v1alpha1", strings.Join(d.Served, ", "))
	default:
		r.ok(name, "v1alpha1, %s", cmp.Or(d.Bundle, "unknown version"))
	}
}

// unknownFeatures returns the features that Weft has and CRDs which are installed have no fields for, sorted.
func unknownFeatures(installed []survey.CRD) []string {
	all := slices.Concat(gateway.ClassFeatures(), gateway.MeshFeatures())
	known := gateway.Known(all, func(plural, path string) bool {
		i := slices.IndexFunc(installed, func(d survey.CRD) bool { return d.Name == plural+gatewaySuffix })
		return i < 0 || installed[i].HasField == nil || installed[i].HasField(path)
	})
	unknown := slices.DeleteFunc(all, func(f string) bool { return slices.Contains(known, f) })
	slices.Sort(unknown)
	return slices.Compact(unknown)
}

// cilium judges what takes connections at the socket before Weft sees their Service.
func (r *report) cilium(c *survey.Cilium) {
	switch {
	case c == nil:
	case c.SocketLB && !c.HostOnly:
		r.fail("Cilium", "set socketLB.hostNamespaceOnly=true in its chart (bpf-lb-sock-hostns-only), then restart its agents",
			"balances pods' connections at the socket: Weft would see a backend's address in place of the Service's, and no route would apply")
	default:
		r.ok("Cilium", "leaves pods' connections at the socket alone")
	}
}

// meshes judges other meshes. Installed beside each other they do no harm; a pod that two of them take does not work.
func (r *report) meshes(all []survey.OtherMesh) {
	for _, name := range []string{"Istio", "Linkerd"} {
		var where, spaces []string
		for _, m := range all {
			if m.Name == name {
				where = append(where, m.Where)
				spaces = m.Namespaces
			}
		}
		remedy := "a pod must be in one mesh only: do not label namespaces for both"
		switch {
		case len(where) == 0:
		case len(spaces) > 0:
			out := map[string]string{
				"Istio":   "kubectl label namespace NAME istio.io/dataplane-mode- istio-injection- istio.io/rev-, and restart its pods",
				"Linkerd": "kubectl annotate namespace NAME linkerd.io/inject-, and restart its pods",
			}[name]
			r.fail(name, "take them out before Weft comes: "+out, "%s; it takes the pods of %s", strings.Join(where, ", "), some(spaces))
		default:
			r.warn(name, remedy, "%s; no namespace is in it", strings.Join(where, ", "))
		}
	}
	if len(all) == 0 {
		r.ok("other meshes", "none")
	}
}

// some names the first three and counts the rest.
func some(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
