// Package cluster keeps the object tables equal to what an API server holds, and writes to it for the controller.
//
//	cluster.go    what is read, and what could not be
//	source.go     one kind: list and watch, versions, CRDs that come and go
//	schema.go     kinds of the mesh: listed again when their CRD changes
//	store.go      objects into their table, as far as they are understood
//	strict.go     fields that this version does not know
//	trim.go       what of an object is kept
//	client.go     requests other than list and watch
//	configmap.go  one ConfigMap
//	configmaps.go the ConfigMaps that other objects refer to, each watched for itself
package cluster
