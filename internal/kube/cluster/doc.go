// Package cluster keeps the object tables equal to what an API server holds, and writes to it for the controller.
//
//	cluster.go    what is read, and what could not be
//	source.go     one kind: list and watch, versions, CRDs that come and go
//	schema.go     kinds that have a CRD: listed again when it changes
//	events.go     watches of kinds that have a CRD
//	reader.go     their objects, from JSON
//	unknown.go    fields of them that this version does not know
//	defaults.go   those of them that nobody set
//	store.go      objects into their table, as far as they are understood
//	strict.go     the same for the kinds of the mesh, which decide who is let in
//	trim.go       what of an object is kept
//	client.go     requests other than list and watch
//	configmap.go  one ConfigMap
//	configmaps.go the ConfigMaps that other objects refer to, each watched for itself
package cluster
