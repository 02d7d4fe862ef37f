// Package datapath is the node in the kernel: eBPF programs at the socket, the maps that they read, and what the pods'
// network namespaces need. Traffic never passes through this package: it decides where connections go when they are
// made, and the kernel's own TCP does the rest.
//
//	connect4,6            a Service's backend, or Envoy on loopback          bpf/outbound.h, bpf/service.h
//	sendmsg4,6 recvmsg4,6 the same for datagrams, and the way back           bpf/outbound.h
//	getpeername4,6        the Service's address                              bpf/outbound.h
//	getsockname4,6        the pod's address, where a proxy is between        bpf/outbound.h
//	sock_ops              original destinations, events                      bpf/sockops.h
//	on Envoy's cgroup     marks its sockets; SO_ORIGINAL_DST                 bpf/proxy.h
//	sk_lookup             inbound: pass, steer to Envoy, refuse              bpf/inbound.h
//	iter/tcp              finds sockets on which Envoy listens already       bpf/listeners.h
//	iter/udp                finds connected UDP sockets of a namespace      bpf/datagrams.h
//
// In Go: Open attaches (attach.go) to what is pinned (pins.go). Run is the reconciler (reconcile.go): the model becomes
// entries (entries.go, pure), and only differences are written (maps.go, services.go, workloads.go). Local workloads'
// namespaces are in netns.go, pods.go and sockets.go, the numbers by which programs know a caller's namespace in callers.go,
// connected UDP sockets whose backend is gone in stray.go and datagrams.go, events in events.go,
// exchanges of datagrams and messages of DNS in udp.go, and the reading of their rings in ring.go.
//
// # What outlives the agent
//
// Maps and links are pinned, so traffic goes on when the agent dies, and the next one takes over: it reads the maps
// back, keeps the numbers of Services, replaces each program atomically, and removes nothing before its own model is
// complete. A version whose maps have another layout fills its own first. Sockets on which Envoy listens are recorded at
// listen(2). Where the map of them is new, those that are there already are found by an iterator (listeners.go).
//
// # What the kernel must have
//
// Linux 5.15 by the helpers that are called: bpf_get_netns_cookie in sock_ops programs came then; before it came
// SO_NETNS_COOKIE (5.14), sk_lookup (5.9), the getpeername hooks and the ring buffer (5.8). From 6.1 on connect() tells
// ECONNREFUSED where this package refuses; before, bpf_set_retval is missing in these hooks, and it tells EPERM. All
// tests run on 6.18; those of datagrams and of Check passed on 6.1 too. Nothing older was at hand. The programs
// see stable contexts only, without CO-RE relocations; the
// kernel must take BTF for maps (CONFIG_BPF_SYSCALL, sk_storage). Only the iterators need /sys/kernel/btf/vmlinux.
// CONFIG_INET_DIAG_DESTROY is needed to close live connections, and CONFIG_INET_UDP_DIAG to end UDP sockets. Check tells
// what is missing.
//
// MPTCP sockets of applications work; Envoy's must be plain TCP, for the kernel takes no others into a SOCKHASH.
//
// # Tests
//
// go test, as root, works on the real kernel in a cgroup of its own; without root the tests on fakes remain.
// go generate builds the BPF object anew.
package datapath
