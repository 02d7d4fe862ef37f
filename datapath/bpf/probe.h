/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kubelet probes a workload that is strict or has a policy, and calls its hooks. A source address proves nothing: pods
 * in the host's network have it too, and what is translated to it. So the host's own sockets are followed from connect()
 * on: connect4 and connect6 mark those of processes outside of pods that connect where a Pod declares a probe,
 * app_sockops records their ends before the SYN leaves, inbound lets only these in, and probe_sends lets only requests
 * leave that the Pod declares, since the kubelet also goes where a redirect or the probe of another Pod sends it. */
#pragma once
#include "event.h"

const volatile __u64 host_netns = 0; /* cookie of the network namespace of the node */

/* What the kubelet speaks at a port. Where only PROBE_TCP is set, it connects and sends nothing. */
enum { PROBE_TCP = 1, PROBE_HTTP = 2, PROBE_TLS = 4, PROBE_GRPC = 8 };

struct probe {
	__u64 netns; /* of the workload */
	__u32 kinds;
	__u32 pad;
};

/* Ports at which local workloads declare probes, of those workloads that do not let everybody in. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, struct probe);
} probes SEC(".maps");

#define REQUEST_LINE 200

/* A request that is declared for such a port. The line is filled with zeros. */
struct probe_request {
	struct endpoint at;
	char line[REQUEST_LINE]; /* without CRLF */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct probe_request);
	__type(value, __u32);
} probe_requests SEC(".maps");

struct probe_flow {
	struct endpoint from;
	struct endpoint to;
};

/* Connections of the host's own processes to such ports, and the workload's namespace: from before the SYN until they are
 * closed. Only processes of the host outside of pods make entries. One that is pushed out before its SYN arrives is
 * refused, and the kubelet probes again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct probe_flow);
	__type(value, __u64);
} probe_flows SEC(".maps");

/* Their sockets, by cookie. What they send is shown to probe_sends. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u64);
} probe_sockets SEC(".maps");

/* Cgroups that pods are in, by number: the ones that the kubelet makes for all pods, and those of single workloads. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} pod_cgroups SEC(".maps");

#define CGROUP_LEVELS 16

static __always_inline bool called_by_pod(void)
{
	for (int level = 1; level < CGROUP_LEVELS; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			return false;
		if (bpf_map_lookup_elem(&pod_cgroups, &id))
			return true;
	}
	return true; /* deeper than is looked */
}

/* Marks a socket of the host that connects where a probe is declared. */
static __always_inline void mark_probe(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	if (!bpf_map_lookup_elem(&probes, to) || called_by_pod())
		return;
	struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return; /* it is refused, and made again */
	c->dest = *to;
	c->flags = CONN_PROBE;
}

/* Before the SYN leaves. Returns whether inbound will let it in. */
static __always_inline bool probe_connects(struct bpf_sock_ops *ops)
{
	struct probe_flow f = {};
	ends(ops, &f.from, &f.to);
	struct probe *p = bpf_map_lookup_elem(&probes, &f.to);
	return p && !bpf_map_update_elem(&probe_flows, &f, &p->netns, BPF_ANY);
}

static __always_inline void probe_connected(struct bpf_sock_ops *ops)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	bpf_sock_hash_update(ops, &probe_sockets, &cookie, BPF_ANY);
}

static __always_inline void probe_closed(struct bpf_sock_ops *ops)
{
	struct probe_flow f = {};
	ends(ops, &f.from, &f.to);
	bpf_map_delete_elem(&probe_flows, &f);
}

/* Whether a connection is a probe's of the workload whose namespace it comes to. */
static __always_inline bool is_probe(const struct flow *f)
{
	struct probe_flow key = { .from = f->from, .to = f->to };
	__u64 *netns = bpf_map_lookup_elem(&probe_flows, &key);
	return netns && *netns == f->netns;
}

/* The first byte of a TLS record that holds a handshake (RFC 8446, section 5.1). */
#define TLS_HANDSHAKE 22

/* The start of the preface of a client of HTTP/2 (RFC 9113, section 3.4), as four bytes in the order of the wire. */
#define HTTP2_PREFACE bpf_htonl(0x50524920)

static __always_inline bool declared_request(const struct endpoint *at, const char *data, const char *end)
{
	struct probe_request r = { .at = *at };
	for (int i = 0; i < REQUEST_LINE; i++) {
		if (data + i + 1 > end)
			return false;
		char c = data[i];
		if (c == '\r')
			return bpf_map_lookup_elem(&probe_requests, &r);
		if (c == 0)
			return false;
		r.line[i] = c;
	}
	return false;
}

static __always_inline void report_undeclared(struct sk_msg_md *msg, const struct conn *c, __u64 netns)
{
	struct endpoint from = {};
	bool v4 = is_mapped(&c->dest.addr);
	__be32 ip4 = LOAD(msg->local_ip4), a0 = LOAD(msg->local_ip6[0]), a1 = LOAD(msg->local_ip6[1]);
	__be32 a2 = LOAD(msg->local_ip6[2]), a3 = LOAD(msg->local_ip6[3]);
	choose(&from.addr, v4, ip4, a0, a1, a2, a3);
	from.port = bpf_htons((__u16)LOAD(msg->local_port));
	struct event *e = new_refusal(netns, &from.addr);
	if (!e)
		return;
	e->reason = REASON_UNDECLARED;
	e->inbound = 1;
	e->local = c->dest;
	e->remote = from;
	e->original = c->dest;
	submit(e);
}

/* What a socket of probe_sockets sends, one call of send() at a time. The kubelet sends a request in one. It fails with EACCES
 * if it is not declared. */
SEC("sk_msg")
int probe_sends(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	if (!sk)
		return SK_DROP;
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c)
		return SK_DROP;
	if (c->flags & CONN_DECLARED)
		return SK_PASS;
	struct endpoint at = c->dest;
	struct probe *p = bpf_map_lookup_elem(&probes, &at);
	if (!p)
		return SK_DROP;
	__u32 size = msg->size;
	if (size > REQUEST_LINE + 1)
		size = REQUEST_LINE + 1;
	bpf_msg_pull_data(msg, 0, size, 0);
	const char *data = msg->data, *end = msg->data_end;
	if (p->kinds & (PROBE_TLS | PROBE_GRPC) && data + 4 <= end) {
		bool tls = p->kinds & PROBE_TLS && data[0] == TLS_HANDSHAKE;
		bool grpc = p->kinds & PROBE_GRPC && *(__be32 *)data == HTTP2_PREFACE;
		if (tls || grpc) {
			c->flags |= CONN_DECLARED;
			return SK_PASS;
		}
	}
	if (p->kinds & PROBE_HTTP && declared_request(&at, data, end))
		return SK_PASS;
	report_undeclared(msg, c, p->netns);
	return SK_DROP;
}
