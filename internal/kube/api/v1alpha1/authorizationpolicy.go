package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AuthorizationPolicy says who may speak to pods, in the shape of GEP-3779. Pods that a policy selects refuse what no
// rule of any policy that selects them allows. It is enforced at the destination.
//
// +kubebuilder:object:root=true
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
	TargetRefs []PolicyTarget `json:"targetRefs,omitempty"`
	// Action is ALLOW, the only one so far.
	Action PolicyAction `json:"action"`
	// Rules allow what matches any of them. None allows nothing.
	Rules []AuthorizationRule `json:"rules,omitempty"`
}

// PolicyAction tells what a policy does with what matches.
type PolicyAction string

// ActionAllow lets through what matches.
const ActionAllow PolicyAction = "ALLOW"

// PolicyTarget selects pods of the policy's namespace: kind Pod with a selector, or kind Service with a name (the
// pods that the Service selects). The group of both is "".
type PolicyTarget struct {
	Group    string                `json:"group,omitempty"`
	Kind     string                `json:"kind"`
	Name     string                `json:"name,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// AuthorizationRule matches traffic that matches each of the fields that are set.
type AuthorizationRule struct {
	Sources           []AuthorizationSource `json:"sources,omitempty"`
	NetworkAttributes *NetworkAttributes    `json:"networkAttributes,omitempty"`
	// HTTP rules look at requests; the traffic is then parsed at the destination.
	HTTP []HTTPAttributes `json:"http,omitempty"`
}

// SourceType is the discriminator of AuthorizationSource.
type SourceType string

// The kinds of sources.
const (
	SourceSPIFFE         SourceType = "SPIFFE"
	SourceServiceAccount SourceType = "ServiceAccount"
	SourceNamespace      SourceType = "Namespace"
)

// AuthorizationSource is an authenticated peer. Type tells which of the other fields is set.
type AuthorizationSource struct {
	Type SourceType `json:"type"`
	// SPIFFE is an exact SPIFFE ID.
	SPIFFE string `json:"spiffe,omitempty"`
	// ServiceAccount is one of the mesh's trust domain.
	ServiceAccount *ServiceAccountSource `json:"serviceAccount,omitempty"`
	// Namespace stands for all service accounts of a namespace.
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountSource names a service account; the namespace is the policy's if empty.
type ServiceAccountSource struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}

// NetworkAttributes describe a connection.
type NetworkAttributes struct {
	// Ports are the destination's, as the pod sees them.
	Ports []int32 `json:"ports,omitempty"`
}

// HTTPAttributes describe a request: any of Methods (all if empty) and any of Paths (all if empty).
type HTTPAttributes struct {
	Methods []string    `json:"methods,omitempty"`
	Paths   []PathMatch `json:"paths,omitempty"`
}

// PathMatchType tells how a path is compared.
type PathMatchType string

// Exact compares the whole path, PathPrefix whole path elements.
const (
	PathExact  PathMatchType = "Exact"
	PathPrefix PathMatchType = "PathPrefix"
)

// PathMatch compares a request's path without its query.
type PathMatch struct {
	Type  PathMatchType `json:"type,omitempty"`
	Value string        `json:"value"`
}

// AuthorizationPolicyStatus is what the mesh thinks of the policy.
type AuthorizationPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
