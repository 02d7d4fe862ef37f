package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuthorizationPolicy controls which clients may connect to pods, in the shape of GEP-3779. Pods that a policy selects refuse what no
// rule of any policy that selects them allows. It is enforced at the destination.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories=weft
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AuthorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AuthorizationPolicySpec   `json:"spec"`
	Status AuthorizationPolicyStatus `json:"status,omitempty"`
}

// AuthorizationPolicyList is a list of AuthorizationPolicies.
//
// +kubebuilder:object:root=true
type AuthorizationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AuthorizationPolicy `json:"items"`
}

// AuthorizationPolicySpec is what the user wants.
type AuthorizationPolicySpec struct {
	// TargetRefs select pods of the policy's namespace; empty selects all of them.
	//
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []PolicyTarget `json:"targetRefs,omitempty"`
	// Action is ALLOW, the only one so far.
	Action PolicyAction `json:"action"`
	// Rules allow what matches any of them. None allows nothing.
	//
	// +kubebuilder:validation:MaxItems=64
	Rules []AuthorizationRule `json:"rules,omitempty"`
}

// PolicyAction tells what a policy does with what matches.
//
// +kubebuilder:validation:Enum=ALLOW
type PolicyAction string

// ActionAllow lets through what matches.
const ActionAllow PolicyAction = "ALLOW"

// PolicyTarget selects pods of the policy's namespace: kind Pod with a selector, or kind Service with a name (the
// pods that the Service selects). The group of both is "". A Service that does not exist selects every pod of the
// namespace. One that is deleted or whose selector changes takes no pod out of the policy until the policy changes.
//
// +kubebuilder:validation:XValidation:rule="self.kind == 'Pod' ? has(self.selector) && !has(self.name) : has(self.name) && !has(self.selector)",message="pods are selected by a selector, a Service by its name"
type PolicyTarget struct {
	// +kubebuilder:validation:MaxLength=0
	Group string `json:"group,omitempty"`
	// +kubebuilder:validation:Enum=Pod;Service
	Kind string `json:"kind"`
	// +kubebuilder:validation:MaxLength=253
	Name     string                `json:"name,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// AuthorizationRule matches traffic that matches each of the fields that are set.
type AuthorizationRule struct {
	// +kubebuilder:validation:MaxItems=64
	Sources           []AuthorizationSource `json:"sources,omitempty"`
	NetworkAttributes *NetworkAttributes    `json:"networkAttributes,omitempty"`
	// HTTP rules look at requests; the traffic is then parsed at the destination.
	//
	// +kubebuilder:validation:MaxItems=64
	HTTP []HTTPAttributes `json:"http,omitempty"`
}

// SourceType is the discriminator of AuthorizationSource.
//
// +kubebuilder:validation:Enum=SPIFFE;ServiceAccount;Namespace
type SourceType string

// The kinds of sources.
const (
	SourceSPIFFE         SourceType = "SPIFFE"
	SourceServiceAccount SourceType = "ServiceAccount"
	SourceNamespace      SourceType = "Namespace"
)

// AuthorizationSource is an authenticated peer. Type tells which of the other fields is set.
//
// +kubebuilder:validation:XValidation:rule="has(self.spiffe) == (self.type == 'SPIFFE') && has(self.serviceAccount) == (self.type == 'ServiceAccount') && has(self.namespace) == (self.type == 'Namespace')",message="the field that type names is set, and no other"
type AuthorizationSource struct {
	Type SourceType `json:"type"`
	// SPIFFE is an exact SPIFFE ID.
	//
	// +kubebuilder:validation:Pattern=`^spiffe://[^/?#]+/[^?#]+$`
	// +kubebuilder:validation:MaxLength=2048
	SPIFFE string `json:"spiffe,omitempty"`
	// ServiceAccount is one of the mesh's trust domain.
	ServiceAccount *ServiceAccountSource `json:"serviceAccount,omitempty"`
	// Namespace stands for all service accounts of a namespace.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountSource names a service account; the namespace is the policy's if empty.
type ServiceAccountSource struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// NetworkAttributes describe a connection.
type NetworkAttributes struct {
	// Ports are the destination's, as the pod sees them.
	//
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`
}

// HTTPAttributes describe a request: any of Methods (all if empty) and any of Paths (all if empty).
type HTTPAttributes struct {
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Pattern=`^[A-Z]+$`
	Methods []string `json:"methods,omitempty"`
	// +kubebuilder:validation:MaxItems=64
	Paths []PathMatch `json:"paths,omitempty"`
}

// PathMatchType tells how a path is compared.
//
// +kubebuilder:validation:Enum=Exact;PathPrefix
type PathMatchType string

// Exact compares the whole path, PathPrefix whole path elements.
const (
	PathExact  PathMatchType = "Exact"
	PathPrefix PathMatchType = "PathPrefix"
)

// PathMatch compares a request's path without its query.
type PathMatch struct {
	Type PathMatchType `json:"type,omitempty"`
	// +kubebuilder:validation:Pattern=`^/[^\s?#]*$`
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value"`
}

// AuthorizationPolicyStatus is what the mesh thinks of the policy.
type AuthorizationPolicyStatus struct {
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
