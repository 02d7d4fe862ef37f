// Package kube holds the objects that users write in tables, which package gateway translates.
//
// The objects come from one of two sources, each in a package of its own:
//
//	kube             tables, kinds, indexes, and what is read from an object alone (labels, addresses, identity)
//	kube/manifests   the source for a folder of YAML and JSON files
//	kube/cluster     the source for an API server, and the client that writes statuses
//	kube/admission   the defaults and checks that both sources apply
//	kube/api         Weft's own kinds
//	kube/crds        the schemas of the Gateway API
//	kube/survey      access to a cluster for weft check
//
// The planes do not import these packages: they read the model.
package kube
