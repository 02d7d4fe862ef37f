// Package install holds tests of what is installed; render gives it from the chart.
package install

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/state"
)

// objects decodes a manifest. Fields that Kubernetes does not know, or that are given twice, fail the test.
func objects(t *testing.T, file string) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, policyv1.AddToScheme, v1alpha1.AddToScheme, admissionv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []runtime.Object
	for docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.TrimSpace(string(doc)); strings.HasPrefix(lines, "# Rendered") {
			continue
		}
		o, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v in\n%s", file, err, doc)
		}
		out = append(out, o)
	}
}

// find gives the object of a type with a name.
func find[T metav1.Object](t *testing.T, all []runtime.Object, name string) T {
	t.Helper()
	for _, o := range all {
		if v, ok := o.(T); ok && v.GetName() == name {
			return v
		}
	}
	var none T
	t.Fatalf("there is no %T %s", none, name)
	return none
}

func TestObjects(t *testing.T) {
	for file, kinds := range map[string][]string{
		"weft.yaml": {
			"Namespace", "ServiceAccount", "ServiceAccount", "ServiceAccount", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRole", "ClusterRoleBinding",
			"ClusterRoleBinding", "Role", "Role", "RoleBinding", "RoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
			"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "DaemonSet", "Deployment", "Service", "PodDisruptionBudget", "Service", "Service",
			"DaemonSet",
		},
		"cleanup.yaml": {"Namespace", "ServiceAccount", "DaemonSet"},
	} {
		var got []string
		for _, o := range objects(t, file) {
			got = append(got, o.GetObjectKind().GroupVersionKind().Kind)
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			if m.GetLabels()["app.kubernetes.io/name"] != "weft" {
				t.Errorf("%s: %s has labels %v", file, m.GetName(), m.GetLabels())
			}
		}
		if !slices.Equal(got, kinds) {
			t.Errorf("%s: kinds %q, want %q", file, got, kinds)
		}
	}
}

// TestReads holds that agent and controller may list and watch every kind that they read, and see its CRD come.
func TestReads(t *testing.T) {
	all := objects(t, "weft.yaml")
	agent, controller := find[*rbacv1.ClusterRole](t, all, "weft-read"), find[*rbacv1.ClusterRole](t, all, "weft-controller")
	bound := find[*rbacv1.ClusterRoleBinding](t, all, "weft-read")
	if len(bound.Subjects) != 2 {
		t.Errorf("weft-read is bound to %v", bound.Subjects)
	}
	for _, statuses := range []bool{false, true} {
		rules := agent.Rules
		if statuses {
			rules = append(slices.Clone(agent.Rules), controller.Rules...)
		}
		reads := cluster.New(&rest.Config{}, kube.NewObjects(state.NewDB()), cluster.Options{Statuses: statuses, Secrets: statuses}).Reads()
		if len(reads) < 10 {
			t.Fatalf("it reads %v", reads)
		}
		for _, r := range reads {
			for _, verb := range []string{"list", "watch"} {
				if !allowed(rules, r.Group, r.Resource, "", verb) {
					t.Errorf("statuses %t: no role allows to %s %s", statuses, verb, r)
				}
			}
			if crd := r.Resource + "." + r.Group; strings.Contains(r.Group, "gateway") || r.Group == v1alpha1.Group {
				for _, verb := range []string{"get", "watch"} {
					if !allowed(rules, "apiextensions.k8s.io", "customresourcedefinitions", crd, verb) {
						t.Errorf("statuses %t: no role allows to %s the CRD %s", statuses, verb, crd)
					}
				}
			}
		}
	}
}

// TestAgentReadsNoSecrets: no role that an agent has allows anything of Secrets.
func TestAgentReadsNoSecrets(t *testing.T) {
	all := objects(t, "weft.yaml")
	roles := map[string][]rbacv1.PolicyRule{} // by kind and name
	for _, o := range all {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			roles["ClusterRole "+o.Name] = o.Rules
		case *rbacv1.Role:
			roles["Role "+o.Name] = o.Rules
		}
	}
	bound := 0
	check := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		for _, s := range subjects {
			if s.Kind == "ServiceAccount" && s.Name == "weft-controller" {
				continue
			}
			bound++
			for _, r := range roles[ref.Kind+" "+ref.Name] {
				if slices.Contains(r.Resources, "secrets") {
					t.Errorf("%s %s lets %s %v Secrets", ref.Kind, ref.Name, s.Name, r.Verbs)
				}
			}
		}
	}
	for _, o := range all {
		switch o := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			check(o.RoleRef, o.Subjects)
		case *rbacv1.RoleBinding:
			check(o.RoleRef, o.Subjects)
		}
	}
	if bound == 0 {
		t.Error("nothing is bound to the agent")
	}
}

// allowed reports whether a rule allows a verb; name is "" where any object is meant.
func allowed(rules []rbacv1.PolicyRule, group, resource, name, verb string) bool {
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
		named := len(r.ResourceNames) == 0 || name != "" && slices.Contains(r.ResourceNames, name)
		return named && slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, verb)
	})
}

// TestPrivileges holds that nothing is privileged, all roles name what they allow, and the controller is nobody.
func TestPrivileges(t *testing.T) {
	for _, file := range []string{"weft.yaml", "cleanup.yaml"} {
		for _, o := range objects(t, file) {
			switch o := o.(type) {
			case *rbacv1.ClusterRole:
				named(t, o.Name, o.Rules)
			case *rbacv1.Role:
				named(t, o.Name, o.Rules)
			case *appsv1.DaemonSet:
				confined(t, o.Name, o.Spec.Template.Spec)
			case *appsv1.Deployment:
				confined(t, o.Name, o.Spec.Template.Spec)
			}
		}
	}
	pod := find[*appsv1.Deployment](t, objects(t, "weft.yaml"), "weft-controller").Spec.Template.Spec
	if s := pod.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || pod.HostNetwork || pod.HostPID {
		t.Errorf("the controller's pod: %+v", pod)
	}
	if caps := pod.Containers[0].SecurityContext.Capabilities; len(caps.Add) > 0 {
		t.Errorf("the controller has capabilities %v", caps.Add)
	}
}

func named(t *testing.T, role string, rules []rbacv1.PolicyRule) {
	for _, r := range rules {
		for _, list := range [][]string{r.APIGroups, r.Resources, r.Verbs} {
			if slices.Contains(list, "*") {
				t.Errorf("role %s allows everything of something: %v", role, r)
			}
		}
	}
}

func confined(t *testing.T, name string, pod corev1.PodSpec) {
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s == nil || s.Privileged != nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: security context %+v", name, s)
		}
		if len(c.Resources.Requests) == 0 || c.ReadinessProbe == nil {
			t.Errorf("%s: requests %v, readiness %v", name, c.Resources.Requests, c.ReadinessProbe)
		}
		if strings.HasSuffix(c.Image, ":") || strings.HasSuffix(c.Image, ":latest") {
			t.Errorf("%s: image %s has no version", name, c.Image)
		}
	}
}

// TestFlowsAPI: the Service reaches the port that the controller serves it at, and the controller may ask about callers.
func TestFlowsAPI(t *testing.T) {
	all := objects(t, "weft.yaml")
	ports := find[*corev1.Service](t, all, "weft-flows").Spec.Ports
	args := find[*appsv1.Deployment](t, all, "weft-controller").Spec.Template.Spec.Containers[0].Args
	for i, flag := range []string{"--flows-address=:", "--map-address=:"} {
		if want := flag + ports[i].TargetPort.String(); !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
	rules := find[*rbacv1.ClusterRole](t, all, "weft-controller").Rules
	for resource, group := range map[string]string{"tokenreviews": "authentication.k8s.io", "subjectaccessreviews": "authorization.k8s.io"} {
		if !allowed(rules, group, resource, "", "create") {
			t.Errorf("the controller may not create %s", resource)
		}
	}
	viewer := find[*rbacv1.ClusterRole](t, all, "weft-flows-viewer")
	if len(viewer.Rules) != 1 || !allowed(viewer.Rules, "weft.io", "flows", "", "list") {
		t.Errorf("viewers may do %v", viewer.Rules)
	}
	viewer = find[*rbacv1.ClusterRole](t, all, "weft-viewer")
	if len(viewer.Rules) != 1 || !allowed(viewer.Rules, "weft.io", "flows", "", "list") || !allowed(viewer.Rules, "weft.io", "config", "", "list") {
		t.Errorf("viewers of all may do %v", viewer.Rules)
	}
}
