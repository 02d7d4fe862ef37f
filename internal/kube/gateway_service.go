package kube

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// GatewayServiceClass is the class of the load balancer Services that stand for Gateways, so that no cloud's controller
// takes them up.
const GatewayServiceClass = "weft.io/gateway"

// AnnotationGateway is on a Service that stands for a Gateway and holds the Gateway's name, which may be too long for
// a label.
const AnnotationGateway = "weft.io/gateway"

// GatewayOfService returns the key of the Gateway that a Service stands for. Such a Service has a cluster address of its
// own that leads to the Gateway; the load balancer addresses in its status are the Gateway's.
func GatewayOfService(s *corev1.Service) (key string, ok bool) {
	if s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass != GatewayServiceClass {
		return "", false
	}
	return model.Key(s.Namespace, s.Annotations[AnnotationGateway]), true
}
