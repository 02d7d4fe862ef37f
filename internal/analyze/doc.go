// Package analyze tells what the mesh makes of manifests, or of documents that somebody read from a cluster, without a node.
//
//	manifests.go   manifests into the model, by the same code that an agent runs
//	findings.go    what is wrong with them: bad documents, and conditions that fail
//	unread.go      documents that another mesh reads
//	lint.go        what the API allows and nobody means: rules that nothing reaches, and what package kube/lint finds
//	envoy.go       the model as resources of Envoy
//	standin.go     Secrets in place of those that may not be read
//	kernel.go      the model as entries of BPF maps
package analyze
