// Package v1alpha1 holds the kinds of the API group weft.io: AuthorizationPolicy and AddressPool.
//
// +kubebuilder:object:generate=true
// +groupName=weft.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0 object crd paths=. output:crd:dir=../../../../install/crds

// Group is the API group of all kinds here.
const Group = "weft.io"

// GroupVersion is weft.io/v1alpha1.
var GroupVersion = schema.GroupVersion{Group: Group, Version: "v1alpha1"}

// AddToScheme registers the kinds.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&AuthorizationPolicy{}, &AuthorizationPolicyList{},
		&AddressPool{}, &AddressPoolList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
