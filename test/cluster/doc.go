// Package cluster runs a real Kubernetes on one Linux machine, for the end-to-end and conformance tests: etcd, API
// server, controller manager and scheduler in one network namespace, and each node (containerd, kubelet, bridge CNI) in
// a network and mount namespace of its own. Everything is built from Go modules at the versions in modules/.
//
//	go run ./test/cluster/cmd up -nodes 2
//	go run ./test/cluster/cmd kubectl get pods -A
//	go run ./test/cluster/cmd exec n1 ip route
//	go run ./test/cluster/cmd down
//
// A cold build takes 12 to 20 minutes of two cores, a start about 20 seconds. The API server alone, for tests that need
// no nodes and no root, is [APIServer].
//
//	host           wcl-br 10.89.0.1, routes to all pods
//	wcl-cp         10.89.0.2  etcd, kube-apiserver :6443, kube-controller-manager, kube-scheduler
//	wcl-n1         10.89.0.3  kubelet, containerd; pods 10.244.1.0/24 on cni0
//	wcl-n2         10.89.0.4  kubelet, containerd; pods 10.244.2.0/24 on cni0
//
// A node's mount namespace makes it a machine of its own: /run, /sys/fs/bpf, /etc, /opt and /var are the node's, so that
// DaemonSets with host paths do not meet each other, and what they leave goes with the node. Kernel settings that a
// kubelet wants to change are shown to it as it wants them, and stay as they are.
//
// All of a node is below its own cgroup, wcl/NODE: its processes in system, its pods in pods (where the kernel's cgroups
// are of both versions, pods are in system for the second). The node sees that cgroup at /run/cgroup2, for what is
// attached to "the root": two nodes share a kernel. 10.89.1.0/24 ([Pool]) is on the link of all machines.
//
// There is no kube-proxy: addresses of Services, that of cluster DNS (10.96.0.10) and of the API server (10.96.0.1)
// included, answer only where a mesh balances them. Until then a pod reaches the API server at [APIAddress].
//
// Files: build.go and cache.go (binaries), pki.go and kubeconfig.go (certificates), process.go, apiserver.go (etcd and
// API server), controlplane.go, node.go, mounts.go and cgroups.go (a node), images.go, gatewayapi.go, cluster.go (up,
// down, status), open.go (a cluster that is up), faults.go (a node ends and comes back).
package cluster
