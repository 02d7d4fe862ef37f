/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps. Their layouts are mirrored by bpf2go in Go; names are at most 15 characters (BPF_OBJ_NAME_LEN).
 *
 * Addresses have 16 bytes; IPv4 is written as ::ffff:a.b.c.d, which is also what an IPv6 socket uses to reach IPv4.
 * Ports are in network byte order where they sit beside an address, so that no program has to turn them.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

struct address {
	__be32 ip[4];
};

struct endpoint {
	struct address addr;
	__be16 port;
	__u16 pad;
};

/* A Service's address and port. */
struct frontend_key {
	struct address addr;
	__be16 port;
	__u8 proto;
	__u8 pad; /* for the callers of a namespace alone: its number; 0: all. It keeps its name, so that versions share the map. */
};

/* Set beside FRONTEND_L7: FRONTEND_DETECT, Envoy finds out whether a connection speaks HTTP; FRONTEND_SNI, Envoy reads its server
 * name. FRONTEND_CALLERS: there are entries of the same address and port for callers of some namespaces. */
enum { FRONTEND_L7 = 1, FRONTEND_DETECT = 2, FRONTEND_CALLERS = 4, FRONTEND_SNI = 8 };

struct frontend {
	__u32 service;
	__u32 count; /* slots 0..count-1 of the service are filled */
	__u32 flags;
	__u32 affinity; /* seconds; 0: none */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct slot_key {
	__u32 service;
	__u32 slot;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct slot_key);
	__type(value, struct endpoint);
} slots SEC(".maps");

/* The backends of services that have affinity or speak UDP, so that a remembered one can be checked. */
struct member_key {
	__u32 service;
	struct endpoint backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct member_key);
	__type(value, __u32);
} members SEC(".maps");

struct affinity_key {
	__u64 client; /* cookie of a network namespace */
	__u32 service;
	__u32 pad;
};

struct affinity {
	struct endpoint backend;
	__u32 pad;
	__u64 used; /* ns of CLOCK_MONOTONIC */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

/* A Service that an unconnected UDP socket sends to, and the backend that the socket has of it. */
struct udp_service {
	struct endpoint service; /* port 0: none */
	struct endpoint backend;
	__u64 used;  /* ns of CLOCK_MONOTONIC */
	__u32 direct; /* the socket has sent to the backend itself since */
	__u32 pad;
};

#define SERVICES_OF_A_SOCKET 16

/* They are kept with the socket: so the sockets of a pod cannot make the node forget what those of others sent to. Threads may send
 * by one socket at the same time. */
struct udp_services {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct udp_service all[SERVICES_OF_A_SOCKET];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct udp_services);
} udp_services SEC(".maps");

/* WORKLOAD_TUNNEL, of a local workload: its authenticated bytes go to weft tunnel if that listens. PEER_BY_ENVOY, of an
 * address: Envoy takes the connections to it, for its policy looks at HTTP requests or its node has no weft tunnel.
 * PEER_SOME_PORTS, beside it: only those to the ports in inspected_ports. Programs of an earlier version take it for all ports. */
enum { WORKLOAD_IDENTITY = 1, WORKLOAD_STRICT = 2, WORKLOAD_POLICED = 4, ADDRESS_CONTESTED = 8, WORKLOAD_TUNNEL = 16,
       PEER_BY_ENVOY = 32, PEER_SOME_PORTS = 64 };

/* Addresses of workloads with an identity, on any node; and those that several claim, where nobody has an identity. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} peers SEC(".maps");

/* The ports of peers with PEER_SOME_PORTS on which a policy looks at requests. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} inspected_ports SEC(".maps");

/* Local workloads, by the cookie of their network namespace. The bits from CALLER_SHIFT on are the number of the namespace in
 * Kubernetes, 0 if it needs none. */
enum { CALLER_SHIFT = 24 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} pods SEC(".maps");

/* Paths of the local workloads' namespaces: not read here, but by who cleans up after a restart. */
struct path {
	char name[256];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct path);
} namespaces SEC(".maps");

struct own_key {
	__u64 netns;
	struct address addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct own_key);
	__type(value, __u32);
} own SEC(".maps");

/* The address that the sockets of a local workload have where nobody bound them to one, by family. */
struct self_key {
	__u64 netns;
	__u32 ipv6;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct self_key);
	__type(value, struct address);
} selves SEC(".maps");

/* The node's own addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} nodes SEC(".maps");

/* Addresses of other nodes, and a number that stands for the node; 0 where several nodes say that they have the address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u32);
} other_nodes SEC(".maps");

/* CONN_PROBE, of the host's own sockets: one that probes a workload. CONN_DECLARED: it speaks TLS or gRPC, as is declared.
 * CONN_CLOSED: its application has closed it. */
enum { CONN_PROXY = 1, CONN_PROBE = 2, CONN_DECLARED = 4, CONN_CLOSED = 8 };

/* What is remembered with a socket. */
struct conn {
	struct endpoint original; /* where the application wanted to go; port 0: nothing was changed */
	struct endpoint dest;     /* where it goes in truth: a backend; for L7 the Service. Of Envoy's: what to tell it */
	__u8 verdict;
	__u8 flags;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

/* Destinations of redirected connections, from connect() until the proxy's end is established. The kernel gives one local
 * port to connections with different ends, so the proxy's port belongs to the key. */
struct tuple {
	__u64 netns;
	struct endpoint addr;
	__be16 proxy;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tuple);
	__type(value, struct endpoint);
} by_tuple SEC(".maps");

/* Envoy's connections to the workload whose namespace they are in. */
struct flow {
	__u64 netns;
	struct endpoint from;
	struct endpoint to;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, __u32);
} from_proxy SEC(".maps");

/* Envoy's sockets that listen on 15006 and 15008. Two for each address and port, the oldest and the latest: of several
 * workers' sockets any will do, for the kernel spreads over the whole SO_REUSEPORT group, and one is left when others
 * are closed. */
struct listener_key {
	__u64 netns;
	struct address addr;
	__u32 port; /* host byte order */
	__u32 latest;
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 16384);
	__type(key, struct listener_key);
	__type(value, __u64);
} listeners SEC(".maps");
