// Package analyze tells what the mesh makes of manifests, without a node and without a cluster.
//
//	manifests.go   manifests into the model, by the same code that an agent runs
//	findings.go    what is wrong with them: bad documents, and conditions that fail
//	unread.go      documents that another mesh reads
//	lint.go        what the API allows and nobody means: rules that nothing reaches
//	routes.go      the same of what routes attach to
//	policies.go    the same of AuthorizationPolicies
//	backendtls.go  the same of BackendTLSPolicies
//	labels.go      the same of labels
//	envoy.go       the model as resources of Envoy
//	kernel.go      the model as entries of BPF maps
package analyze
