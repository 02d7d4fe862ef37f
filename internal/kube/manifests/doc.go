// Package manifests keeps the object tables equal to a folder of Kubernetes manifests.
//
//	folder.go      Folder, its contract and its state
//	watch.go       events of the file system into files to read; inotify.go is the kernel's part
//	scan.go        the whole folder, compared with what is known
//	file.go        one file: its documents, and what is kept of those that went or are bad
//	document.go    a file cut into documents
//	text.go        YAML and JSON into values, with the lines of fields
//	decode.go      values into objects
//	schema.go      defaults and checks of kinds that have a schema; rules.go skips rules that an object surely keeps
//	hint.go        which field is meant by one that does not exist
//	standin.go     what is in force in place of a document that cannot be read
//	apply.go       objects into their tables
//	read.go        files read once, for weft analyze; workloads.go what Deployments and the like say of their pods
package manifests
