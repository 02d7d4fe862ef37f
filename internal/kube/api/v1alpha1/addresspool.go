package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AddressPool holds addresses that Gateways without one of their own are given. It belongs to the cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=weft
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AddressPoolSpec   `json:"spec"`
	Status AddressPoolStatus `json:"status,omitempty"`
}

// AddressPoolList is a list of AddressPools.
//
// +kubebuilder:object:root=true
type AddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressPool `json:"items"`
}

// AddressPoolSpec is what the user wants.
type AddressPoolSpec struct {
	// Addresses are single ones, CIDRs (192.0.2.0/28, all addresses of it) or ranges (192.0.2.1-192.0.2.9, both ends
	// included).
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[0-9A-Fa-f:.]+(/[0-9]{1,3}| *- *[0-9A-Fa-f:.]+)?$`
	Addresses []string `json:"addresses"`
	// Sharing says whether Gateways of several namespaces may have one of the addresses together, each with ports of its
	// own. Namespace, the default: an address belongs to the namespace of the Gateway that has it. Cluster: Gateways of all
	// namespaces may ask for it.
	//
	// +optional
	// +kubebuilder:validation:Enum=Namespace;Cluster
	Sharing Sharing `json:"sharing,omitempty"`
}

// Sharing says who may have an address together.
type Sharing string

// The values of AddressPoolSpec.Sharing.
const (
	SharingNamespace Sharing = "Namespace"
	SharingCluster   Sharing = "Cluster"
)

// AddressPoolStatus is what the mesh thinks of the pool.
type AddressPoolStatus struct {
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
