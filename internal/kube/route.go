package kube

import gwv1 "sigs.k8s.io/gateway-api/apis/v1"

// Route returns what routes of all kinds have in common, to read and to change: the parents of the spec, and the status.
// ok is false for other objects.
func Route(obj any) (spec *gwv1.CommonRouteSpec, status *gwv1.RouteStatus, ok bool) {
	switch o := obj.(type) {
	case *gwv1.HTTPRoute:
		return &o.Spec.CommonRouteSpec, &o.Status.RouteStatus, true
	case *gwv1.GRPCRoute:
		return &o.Spec.CommonRouteSpec, &o.Status.RouteStatus, true
	case *gwv1.TLSRoute:
		return &o.Spec.CommonRouteSpec, &o.Status.RouteStatus, true
	case *gwv1.TCPRoute:
		return &o.Spec.CommonRouteSpec, &o.Status.RouteStatus, true
	case *gwv1.UDPRoute:
		return &o.Spec.CommonRouteSpec, &o.Status.RouteStatus, true
	}
	return nil, nil, false
}
