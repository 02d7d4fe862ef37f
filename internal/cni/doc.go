// Package cni puts Weft at the end of a node's chain of CNI plugins (https://www.cni.dev/docs/spec/).
//
// The plugin (Plugin) is a short-lived process of the container runtime. It changes nothing itself: it passes the result
// of the plugins before it through, and asks the agent, on a unix socket, to take the pod into the mesh (Handler). The
// runtime starts the pod's containers after it returns, so a pod never runs outside the mesh for a moment.
//
// Where no agent answers, a file that the agent keeps (Modes) says which namespaces may go on without it.
//
// An Installer puts the plugin into the node's network configuration and keeps it there.
package cni
