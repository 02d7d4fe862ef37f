package manifests

import (
	"bytes"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/admission"
	"github.com/weft-mesh/weft/internal/model"
)

// noStandIn says what it means that nothing stands in for a Pod.
const noStandIn = "; until it can be read, the pod is not in the mesh, and nothing protects it"

// closedPod keeps a pod with a network namespace in the mesh, with what can be read of its metadata, its service
// account and its addresses. It gets no traffic by Services. A mode that cannot be read is taken as strict. m is nil
// where not even the syntax can be read: its lines are searched then.
func closedPod(ref model.ObjectRef, m map[string]any, text []byte) (runtime.Object, string) {
	p := &corev1.Pod{}
	if m != nil {
		readPod(p, m)
	} else {
		searchPod(p, text)
	}
	p.Namespace, p.Name = ref.Namespace, ref.Name
	if p.Annotations[kube.AnnotationNetNS] == "" || p.Spec.HostNetwork {
		return nil, ""
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	if len(admission.CheckLabels(p, nil)) > 0 {
		p.Labels[kube.LabelMTLS] = model.MTLSStrict.String()
		delete(p.Labels, kube.LabelL7)
		delete(p.Labels, kube.LabelMTLSEnforce) // it says nothing on a pod
	}
	if len(admission.CheckPod(p)) > 0 {
		return nil, ""
	}
	if addrs, _ := kube.PodAddresses(p); len(addrs) == 0 {
		return nil, "" // nothing that the kernel could know it by
	}
	return p, "until it can be read, the pod is in the mesh with its metadata alone, and no Service leads to it"
}

// readPod takes the fields that are of the type that they should be.
func readPod(p *corev1.Pod, m map[string]any) {
	meta, _ := m["metadata"].(map[string]any)
	spec, _ := m["spec"].(map[string]any)
	status, _ := m["status"].(map[string]any)
	p.Labels, p.Annotations = textsOf(meta["labels"]), textsOf(meta["annotations"])
	if labels, _ := meta["labels"].(map[string]any); labels[kube.LabelMTLS] != nil && p.Labels[kube.LabelMTLS] == "" {
		p.Labels[kube.LabelMTLS] = model.MTLSStrict.String()
	}
	p.Spec.ServiceAccountName, _ = spec["serviceAccountName"].(string)
	p.Spec.NodeName, _ = spec["nodeName"].(string)
	p.Spec.HostNetwork, _ = spec["hostNetwork"].(bool)
	p.Status.PodIP, _ = status["podIP"].(string)
	list, _ := status["podIPs"].([]any)
	for _, item := range list {
		ip, _ := item.(map[string]any)
		if text, ok := ip["ip"].(string); ok {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: text})
		}
	}
}

// textsOf returns the texts in a map; it is never nil.
func textsOf(v any) map[string]string {
	out := map[string]string{}
	in, _ := v.(map[string]any)
	for k, v := range in {
		if text, ok := v.(string); ok {
			out[k] = text
		}
	}
	return out
}

// What is searched for in a Pod whose syntax cannot be read. Comments were taken out before.
var (
	comments    = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	hostNetwork = fieldOf("hostNetwork", `true\b`)
	podFields   = func() map[string]*regexp.Regexp {
		all := map[string]*regexp.Regexp{}
		for _, name := range []string{kube.AnnotationNetNS, kube.AnnotationCgroup, kube.AnnotationIP, kube.LabelMTLS, "podIP", "serviceAccountName"} {
			all[name] = fieldOf(name, `[^"',{}\[\]\s]+`)
		}
		return all
	}()
)

// fieldOf finds the first value of a field, in block and in flow style.
func fieldOf(name, value string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)(?:^|[\s{,"'])` + regexp.QuoteMeta(name) + `["']?:\s*["']?(` + value + `)`)
}

// searchPod finds a pod's namespace, addresses, mode and service account in a text that is no YAML.
func searchPod(p *corev1.Pod, text []byte) {
	text = comments.ReplaceAll(text, nil)
	find := func(name string) string {
		if m := podFields[name].FindSubmatch(text); m != nil {
			return string(m[1])
		}
		return ""
	}
	p.ObjectMeta = metav1.ObjectMeta{Annotations: map[string]string{}, Labels: map[string]string{}}
	for _, name := range []string{kube.AnnotationNetNS, kube.AnnotationCgroup, kube.AnnotationIP} {
		if v := find(name); v != "" {
			p.Annotations[name] = v
		}
	}
	if bytes.Contains(text, []byte(kube.LabelMTLS)) {
		p.Labels[kube.LabelMTLS] = find(kube.LabelMTLS)
		if mode, ok := model.ParseMTLSMode(p.Labels[kube.LabelMTLS]); !ok || p.Labels[kube.LabelMTLS] == "" || mode == model.MTLSDisabled {
			p.Labels[kube.LabelMTLS] = model.MTLSStrict.String()
		}
	}
	p.Spec.ServiceAccountName, p.Status.PodIP = find("serviceAccountName"), find("podIP")
	p.Spec.HostNetwork = hostNetwork.Match(text)
}
