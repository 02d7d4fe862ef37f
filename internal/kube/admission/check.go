package admission

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// Check returns what is wrong with the fields that the mesh reads, for kinds without a schema. A label or a policy that
// is not understood is refused here, for to read it as "nothing was asked for" would open what the user meant to close.
func Check(obj runtime.Object) field.ErrorList {
	var errs field.ErrorList
	meta := field.NewPath("metadata")
	if o, ok := obj.(metav1.Object); ok {
		errs = append(errs, CheckLabels(o, meta.Child("labels"))...)
	}
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *corev1.Pod:
		errs = append(errs, CheckPod(o)...)
	case *corev1.Service:
		errs = append(errs, checkService(o, spec)...)
	case *discoveryv1.EndpointSlice:
		errs = append(errs, checkSlice(o)...)
	case *corev1.Secret:
		errs = append(errs, checkSecret(o)...)
	case *weftv1.AuthorizationPolicy:
		errs = append(errs, checkPolicy(o, spec)...)
	case *weftv1.AddressPool:
		errs = append(errs, checkPool(o, spec)...)
	}
	return errs
}

// CheckLabels returns what is wrong with the labels of the mesh on an object.
func CheckLabels(o metav1.Object, labels *field.Path) (errs field.ErrorList) {
	if v, ok := o.GetLabels()[kube.LabelMTLS]; ok {
		if _, known := model.ParseMTLSMode(v); !known {
			errs = append(errs, field.NotSupported(labels.Key(kube.LabelMTLS), v, []string{"strict", "permissive", "disabled"}))
		}
	}
	for _, label := range []string{kube.LabelMTLSEnforce, kube.LabelL7} {
		if v, ok := o.GetLabels()[label]; ok && v != kube.Enabled && v != kube.Disabled {
			errs = append(errs, field.NotSupported(labels.Key(label), v, []string{kube.Enabled, kube.Disabled}))
		}
	}
	return errs
}

// CheckPod returns what is wrong with the fields of a Pod that the mesh reads.
func CheckPod(p *corev1.Pod) (errs field.ErrorList) {
	annotations := field.NewPath("metadata", "annotations")
	if v, ok := p.Annotations[kube.AnnotationNetNS]; ok && !kube.IsNetNSName(v) {
		errs = append(errs, field.Invalid(annotations.Key(kube.AnnotationNetNS), v, "must be the name of a file in /run/netns"))
	}
	if v, ok := p.Annotations[kube.AnnotationCgroup]; ok && !kube.IsCgroupPath(v) {
		errs = append(errs, field.Invalid(annotations.Key(kube.AnnotationCgroup), v, "must be a path below the cgroup2 mount, without . and .."))
	}
	if _, bad := kube.PodAddresses(p); len(bad) > 0 {
		errs = append(errs, field.Invalid(annotations.Key(kube.AnnotationIP), strings.Join(bad, ", "), "must be addresses of a pod (or so must status.podIPs)"))
	}
	if sa := p.Spec.ServiceAccountName; sa != "" { // it becomes part of the pod's identity
		for _, msg := range apivalidation.ValidateServiceAccountName(sa, false) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "serviceAccountName"), sa, msg))
		}
	}
	if p.Spec.HostNetwork && p.Annotations[kube.AnnotationNetNS] != "" {
		errs = append(errs, field.Forbidden(annotations.Key(kube.AnnotationNetNS), "a pod of the host's network has no namespace of its own"))
	}
	for i, c := range p.Spec.Containers {
		for j, port := range c.Ports {
			errs = append(errs, checkPort(port.ContainerPort, field.NewPath("spec", "containers").Index(i).Child("ports").Index(j).Child("containerPort"))...)
		}
	}
	return errs
}

func checkPort(n int32, at *field.Path) (errs field.ErrorList) {
	for _, msg := range validation.IsValidPortNum(int(n)) {
		errs = append(errs, field.Invalid(at, n, msg))
	}
	return errs
}

func checkProtocol(p corev1.Protocol, at *field.Path) (errs field.ErrorList) {
	known := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	if !slices.Contains(known, p) {
		errs = append(errs, field.NotSupported(at, p, known))
	}
	return errs
}

func checkService(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	type number struct {
		port     int32
		protocol corev1.Protocol
	}
	numbers, names := map[number]bool{}, map[string]bool{}
	for i, p := range s.Spec.Ports {
		at := spec.Child("ports").Index(i)
		errs = append(errs, checkPort(p.Port, at.Child("port"))...)
		errs = append(errs, checkProtocol(p.Protocol, at.Child("protocol"))...)
		errs = append(errs, checkTargetPort(p.TargetPort, at.Child("targetPort"))...)
		n := number{p.Port, p.Protocol}
		if numbers[n] {
			errs = append(errs, field.Duplicate(at, p.Port))
		}
		if p.Name == "" && len(s.Spec.Ports) > 1 {
			errs = append(errs, field.Required(at.Child("name"), "ports of a Service with several have names"))
		} else if names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		numbers[n], names[p.Name] = true, true
	}
	for i, ip := range s.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			errs = append(errs, checkAddress(ip, spec.Child("clusterIPs").Index(i))...)
		}
	}
	if len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != s.Spec.ClusterIP {
		errs = append(errs, field.Invalid(spec.Child("clusterIP"), s.Spec.ClusterIP, "must be the first of clusterIPs"))
	}
	for i, ip := range s.Spec.ExternalIPs {
		errs = append(errs, checkAddress(ip, spec.Child("externalIPs").Index(i))...)
	}
	affinities := []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP}
	if !slices.Contains(affinities, s.Spec.SessionAffinity) {
		errs = append(errs, field.NotSupported(spec.Child("sessionAffinity"), s.Spec.SessionAffinity, affinities))
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t < 1 || t > 86400 {
			errs = append(errs, field.Invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be from 1 to 86400"))
		}
	}
	return append(errs, metav1validation.ValidateLabels(s.Spec.Selector, spec.Child("selector"))...)
}

func checkTargetPort(p intstr.IntOrString, at *field.Path) (errs field.ErrorList) {
	if p.Type == intstr.Int {
		return checkPort(p.IntVal, at)
	}
	for _, msg := range validation.IsValidPortName(p.StrVal) {
		errs = append(errs, field.Invalid(at, p.StrVal, msg))
	}
	return errs
}

func checkAddress(text string, at *field.Path) field.ErrorList {
	if a, err := netip.ParseAddr(text); err != nil || a.Zone() != "" {
		return field.ErrorList{field.Invalid(at, text, "must be an IPv4 or IPv6 address")}
	}
	return nil
}

func checkSlice(s *discoveryv1.EndpointSlice) (errs field.ErrorList) {
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}
	if !slices.Contains(types, s.AddressType) {
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, types))
	}
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		errs = append(errs, checkProtocol(*p.Protocol, at.Child("protocol"))...)
		if p.Port != nil {
			errs = append(errs, checkPort(*p.Port, at.Child("port"))...)
		}
	}
	for i, e := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i).Child("addresses")
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at, "an endpoint has an address"))
		}
		for j, a := range e.Addresses {
			if s.AddressType == discoveryv1.AddressTypeFQDN {
				continue
			}
			errs = append(errs, checkAddress(a, at.Index(j))...)
			if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
				errs = append(errs, field.Invalid(at.Index(j), a, "is not of addressType "+string(s.AddressType)))
			}
		}
	}
	return errs
}

func checkSecret(s *corev1.Secret) (errs field.ErrorList) {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if _, ok := s.Data[key]; !ok {
			errs = append(errs, field.Required(field.NewPath("data").Key(key), "a Secret of type "+string(corev1.SecretTypeTLS)+" has it"))
		}
	}
	return errs
}
