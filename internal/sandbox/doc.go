// Package sandbox runs one node of a mesh on one machine, without Kubernetes: pods are network namespaces of package
// lab, the agent is a process of its own, and manifests are plain files.
//
// It plays the parts of Kubernetes that the manifests need, and no more: it gives Services a ClusterIP (as the API
// server), Pods a network namespace, an address and a process (as scheduler, CNI and kubelet), and writes these into
// its own copy of the manifests. A container is the weft binary with the container's args, whatever its image.
//
//	node.go      a Node: start, apply manifests, close
//	kubelet.go   what is filled in, and pods' processes
//	hosts.go     names of Services
//	agent.go     the agent's process, and Envoy
//	clean.go     taking everything away, also after a Node that was killed
package sandbox
