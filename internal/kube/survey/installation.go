package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Installation is what there is of Weft in a cluster.
type Installation struct {
	Namespace string
	Parts     []Part // those that are there: weft-agent, weft-proxy, weft-controller
	Pods      []Pod
	Nodes     []Node
	CRDs      []CRD
	Classes   []Class
	Gateways  []Gateway
	Leader    Leader
	// NetworkPolicies are those that name a port of the mesh.
	NetworkPolicies []NetworkPolicy
	// TrustBundle is PEM; "" where there is no ConfigMap of it.
	TrustBundle string
}

// Part is a DaemonSet or Deployment of Weft.
type Part struct {
	Kind, Name string
	Version    string // label app.kubernetes.io/version
	Image      string // of the first container
	Args       []string
	// Observed is false while the API server has not yet looked at the last change of it.
	Observed bool
	// Want pods, of which Updated run what is asked for now, and Ready are ready.
	Want, Updated, Ready int
}

// Pod is a pod of Weft.
type Pod struct {
	Name, Component, Node, UID string
	Ready                      bool
	Why                        string // it is not ready, as far as its status tells
}

// Class is a GatewayClass.
type Class struct {
	Name, Controller string
	Accepted         bool
	Why              string // it is not accepted
}

// Gateway is a Gateway of any class.
type Gateway struct{ Namespace, Name, Class string }

// Leader is the controllers' Lease.
type Leader struct {
	Holder  string // "" if nobody has it, or it is not there
	Renewed time.Time
}

// What is installed, by name, and the label by which its pods are selected.
const (
	agentName      = "weft-agent"
	proxyName      = "weft-proxy"
	controllerName = "weft-controller"
	bundleName     = "weft-trust-bundle"
	bundleKey      = "ca.crt"

	podSelector    = "app.kubernetes.io/name=weft"
	componentLabel = "app.kubernetes.io/component"
	versionLabel   = "app.kubernetes.io/version"

	// Agent, Controller and Cleanup are components.
	Agent      = "agent"
	Controller = "controller"
	Cleanup    = "cleanup"
)

// Installation asks for all of it. What cannot be read is in the error; the rest is given all the same.
func (c *Cluster) Installation(ctx context.Context, namespace string) (Installation, error) {
	i := Installation{Namespace: namespace}
	var errs []error
	var err error
	note := func(err error) { errs = append(errs, err) }
	i.Parts, err = c.parts(ctx, namespace)
	note(err)
	i.Pods, err = c.Pods(ctx, namespace)
	note(err)
	i.Nodes, err = c.Nodes(ctx)
	note(err)
	i.CRDs, err = c.crds(ctx)
	note(err)
	i.Classes, err = c.classes(ctx)
	note(err)
	i.Gateways, err = c.gateways(ctx)
	note(err)
	i.Leader, err = c.leader(ctx, namespace)
	note(err)
	i.NetworkPolicies, err = c.networkPolicies(ctx)
	note(err)
	bundle, err := get[corev1.ConfigMap](ctx, c, fmt.Sprintf("/api/v1/namespaces/%s/configmaps/%s", namespace, bundleName))
	if !absent(err) {
		note(err)
	}
	i.TrustBundle = bundle.Data[bundleKey]
	return i, distinct(errors.Join(errs...))
}

// distinct leaves one of each text of joined errors: an API server that does not answer is one fault, whatever it was asked.
func distinct(err error) error {
	var out []error
	seen := map[string]bool{}
	var add func(error)
	add = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				add(e)
			}
		} else if err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			out = append(out, err)
		}
	}
	add(err)
	return errors.Join(out...)
}

func (c *Cluster) parts(ctx context.Context, namespace string) ([]Part, error) {
	apps := "/apis/apps/v1/namespaces/" + namespace
	var out []Part
	var errs []error
	for _, name := range []string{agentName, proxyName} {
		d, err := get[appsv1.DaemonSet](ctx, c, apps+"/daemonsets/"+name)
		if err != nil {
			errs = append(errs, unlessAbsent(err))
			continue
		}
		p := partOf("DaemonSet", d.ObjectMeta, d.Spec.Template)
		s := d.Status
		p.Observed, p.Want = s.ObservedGeneration >= d.Generation, int(s.DesiredNumberScheduled)
		p.Updated, p.Ready = int(s.UpdatedNumberScheduled), int(s.NumberReady)
		out = append(out, p)
	}
	d, err := get[appsv1.Deployment](ctx, c, apps+"/deployments/"+controllerName)
	if err != nil {
		return out, errors.Join(append(errs, unlessAbsent(err))...)
	}
	p := partOf("Deployment", d.ObjectMeta, d.Spec.Template)
	p.Want = 1 // what the API server takes for none
	if d.Spec.Replicas != nil {
		p.Want = int(*d.Spec.Replicas)
	}
	p.Observed, p.Updated, p.Ready = d.Status.ObservedGeneration >= d.Generation, int(d.Status.UpdatedReplicas), int(d.Status.ReadyReplicas)
	return append(out, p), errors.Join(errs...)
}

func unlessAbsent(err error) error {
	if absent(err) {
		return nil
	}
	return err
}

func partOf(kind string, meta metav1.ObjectMeta, pod corev1.PodTemplateSpec) Part {
	p := Part{Kind: kind, Name: meta.Name, Version: meta.Labels[versionLabel]}
	if len(pod.Spec.Containers) > 0 {
		p.Image, p.Args = pod.Spec.Containers[0].Image, pod.Spec.Containers[0].Args
	}
	return p
}

// Pods asks for the pods of Weft, sorted by component, node and name.
func (c *Cluster) Pods(ctx context.Context, namespace string) ([]Pod, error) {
	pods, err := list[corev1.Pod](ctx, c, "/api/v1/namespaces/"+namespace+"/pods", podSelector, "")
	var out []Pod
	for i := range pods {
		p := &pods[i]
		o := Pod{Name: p.Name, Component: p.Labels[componentLabel], Node: p.Spec.NodeName, UID: string(p.UID)}
		o.Ready, o.Why = readiness(p)
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Pod) int {
		return cmp.Or(strings.Compare(a.Component, b.Component), strings.Compare(a.Node, b.Node), strings.Compare(a.Name, b.Name))
	})
	return out, err
}

// NodeOf asks for the node that a pod runs on.
func (c *Cluster) NodeOf(ctx context.Context, namespace, name string) (string, error) {
	p, err := get[corev1.Pod](ctx, c, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(name))
	if err == nil && p.Spec.NodeName == "" {
		err = fmt.Errorf("Pod %s/%s has no node yet", namespace, name)
	}
	return p.Spec.NodeName, err
}

// readiness says why a pod is not ready by the most telling part of its status.
func readiness(p *corev1.Pod) (ready bool, why string) {
	why = string(p.Status.Phase)
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil:
			return true, ""
		case c.Status == corev1.ConditionFalse && c.Message != "":
			why = c.Message
		}
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil && w.Reason != "" {
			why = strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
		}
	}
	if p.DeletionTimestamp != nil {
		why = "it is being deleted"
	}
	return false, why
}

func (c *Cluster) classes(ctx context.Context) ([]Class, error) {
	all, err := list[gwv1.GatewayClass](ctx, c, "/apis/"+gatewayGroup+"/v1/gatewayclasses", "", "")
	var out []Class
	for _, g := range all {
		o := Class{Name: g.Name, Controller: string(g.Spec.ControllerName), Why: "no controller has said so"}
		for _, c := range g.Status.Conditions {
			if c.Type == string(gwv1.GatewayClassConditionStatusAccepted) {
				o.Accepted, o.Why = c.Status == metav1.ConditionTrue, strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
			}
		}
		out = append(out, o)
	}
	return out, err
}

func (c *Cluster) gateways(ctx context.Context) ([]Gateway, error) {
	all, err := list[gwv1.Gateway](ctx, c, "/apis/"+gatewayGroup+"/v1/gateways", "", "")
	var out []Gateway
	for _, g := range all {
		out = append(out, Gateway{Namespace: g.Namespace, Name: g.Name, Class: string(g.Spec.GatewayClassName)})
	}
	return out, err
}

func (c *Cluster) leader(ctx context.Context, namespace string) (Leader, error) {
	l, err := get[coordinationv1.Lease](ctx, c, "/apis/coordination.k8s.io/v1/namespaces/"+namespace+"/leases/"+controllerName)
	if err != nil {
		return Leader{}, unlessAbsent(err)
	}
	var out Leader
	if h := l.Spec.HolderIdentity; h != nil {
		out.Holder = *h
	}
	if t := l.Spec.RenewTime; t != nil {
		out.Renewed = t.Time
	}
	return out, nil
}
