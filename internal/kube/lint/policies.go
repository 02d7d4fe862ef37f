package lint

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// policies finds policies that allow or select less than they most likely mean.
func (c *checker) policies() []Remark {
	var out []Remark
	for p := range c.objs.AuthorizationPolicies.All(c.snap) {
		ref := model.ObjectRef{Group: weftv1.Group, Kind: "AuthorizationPolicy", Namespace: p.Namespace, Name: p.Name}
		if _, read := c.files.Where[ref]; !read {
			continue
		}
		for i, t := range p.Spec.TargetRefs {
			if message := c.selectsNothing(p.Namespace, t); message != "" {
				out = append(out, warn(CodeSelectsNothing, ref, fmt.Sprintf("targetRefs[%d]: %s", i, message)))
			}
		}
		for i, r := range p.Spec.Rules {
			at := fmt.Sprintf("rules[%d]", i)
			for _, message := range append(c.unprovable(p.Namespace, r.Sources), c.servicePorts(p, r.NetworkAttributes)...) {
				out = append(out, warn(message.code, ref, at+message.text))
			}
		}
	}
	return out
}

type remark struct{ code, text string }

// selectsNothing says that a target selects none of the pods that the manifests have of its namespace. Without such pods
// nothing is known.
func (c *checker) selectsNothing(namespace string, t weftv1.PolicyTarget) string {
	selector, of := labels.Nothing(), "the selector"
	switch {
	case t.Kind == "Pod" && t.Selector != nil:
		s, err := metav1.LabelSelectorAsSelector(t.Selector)
		if err != nil {
			return "" // the document is refused
		}
		selector = s
	case t.Kind == "Service":
		svc, ok := c.objs.Services.Get(c.snap, model.Key(namespace, t.Name))
		if !ok || len(svc.Spec.Selector) == 0 {
			return "" // a condition says so
		}
		selector, of = labels.SelectorFromSet(svc.Spec.Selector), "the selector of Service "+t.Name
	}
	pods := c.podLabels(namespace)
	if len(pods) == 0 || slices.ContainsFunc(pods, selectedBy(selector)) {
		return ""
	}
	return fmt.Sprintf("%s selects none of the pods of namespace %s", of, namespace)
}

// podLabels returns the labels of the pods of a namespace, whether they were read themselves or what makes them.
func (c *checker) podLabels(namespace string) []labels.Set {
	var out []labels.Set
	for p := range c.objs.Pods.By(c.snap, kube.ByNamespace, namespace) {
		out = append(out, p.Labels)
	}
	for _, w := range c.files.Workloads {
		if w.Ref.Namespace == namespace {
			out = append(out, w.Labels)
		}
	}
	return out
}

func selectedBy(s labels.Selector) func(labels.Set) bool {
	return func(pod labels.Set) bool { return s.Matches(pod) }
}

// unprovable says which sources can never be met: both ends need an identity, which pods have in modes strict and permissive.
func (c *checker) unprovable(namespace string, sources []weftv1.AuthorizationSource) []remark {
	if len(sources) == 0 {
		return nil
	}
	const remedy = "label the namespace weft.io/mtls: permissive or strict"
	if c.withoutIdentity(namespace) {
		return []remark{{CodeNoIdentity, fmt.Sprintf(".sources: no client can prove who it is to the pods of namespace %s, where mTLS is disabled, so the rule allows nobody; %s", namespace, remedy)}}
	}
	var out []remark
	for i, s := range sources {
		from := s.Namespace
		if a := s.ServiceAccount; a != nil {
			if from = a.Namespace; from == "" {
				from = namespace
			}
		}
		if from != "" && c.withoutIdentity(from) {
			out = append(out, remark{CodeNoIdentity, fmt.Sprintf(".sources[%d]: the pods of namespace %s have no identity, for mTLS is disabled there, so the source is met by nobody; %s", i, from, remedy)})
		}
	}
	return out
}

// withoutIdentity reports whether no pod of a namespace has an identity, as far as the manifests say: neither the Namespace
// nor one of the pods that are among them is labelled.
func (c *checker) withoutIdentity(namespace string) bool {
	ns, ok := c.objs.Namespaces.Get(c.snap, model.Key("", namespace))
	if !ok || kube.NamespaceMode(ns).Mode != model.MTLSDisabled {
		return false
	}
	for p := range c.objs.Pods.By(c.snap, kube.ByNamespace, namespace) {
		if c.objs.Mode(c.snap, p).Mode != model.MTLSDisabled {
			return false
		}
	}
	for _, w := range c.files.Workloads {
		if v, labelled := w.Labels[kube.LabelMTLS]; w.Ref.Namespace == namespace && labelled && v != model.MTLSDisabled.String() {
			return false
		}
	}
	return true
}

// servicePorts says which ports of a rule are those of a Service, whose pods listen on another one.
func (c *checker) servicePorts(p *weftv1.AuthorizationPolicy, n *weftv1.NetworkAttributes) []remark {
	if n == nil {
		return nil
	}
	services := c.targets(p)
	var out []remark
	for i, port := range n.Ports {
		var mistaken []string
		listened := false
		for _, s := range services {
			for _, sp := range s.Spec.Ports {
				target := sp.TargetPort
				if target == (intstr.IntOrString{}) {
					target = intstr.FromInt32(sp.Port)
				}
				listened = listened || target.Type == intstr.Int && target.IntVal == port
				if sp.Port == port && target != intstr.FromInt32(port) {
					mistaken = append(mistaken, fmt.Sprintf("Service %s has it and leads to port %s of its pods", s.Name, target.String()))
				}
			}
		}
		if !listened && len(mistaken) > 0 {
			out = append(out, remark{CodeServicePort, fmt.Sprintf(".networkAttributes.ports[%d]: %d is compared with the port that the pod listens on, but %s",
				i, port, strings.Join(mistaken, ", and "))})
		}
	}
	return out
}

// targets returns the Services that a policy names, or all of its namespace if it selects pods otherwise.
func (c *checker) targets(p *weftv1.AuthorizationPolicy) []*corev1.Service {
	all := slices.Collect(c.objs.Services.By(c.snap, kube.ByNamespace, p.Namespace))
	isService := func(t weftv1.PolicyTarget) bool { return t.Kind == "Service" }
	if len(p.Spec.TargetRefs) == 0 || slices.ContainsFunc(p.Spec.TargetRefs, func(t weftv1.PolicyTarget) bool { return !isService(t) }) {
		return all
	}
	return slices.DeleteFunc(all, func(s *corev1.Service) bool {
		return !slices.ContainsFunc(p.Spec.TargetRefs, func(t weftv1.PolicyTarget) bool { return t.Name == s.Name })
	})
}
