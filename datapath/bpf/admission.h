/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How many connections a source may have the proxies accept. Envoy accepts the connections of all on the same threads, so a
 * source that opens them as fast as it can slows the others. */
#pragma once
#include "event.h"
#include "packet.h"

#define TCP_SYN 2
#define TCP_ACK 16

/* ns of a source's time that a connection takes: 1 s / rate. 0: no bound. */
const volatile __u64 admission_cost = 0;
/* ns that a source may be ahead: connections that it may open at once, times admission_cost. */
const volatile __u64 admission_burst = 0;

/* A pod's connections to its own loopback have its namespace, all others their address alone. */
struct source {
	__u64 netns;
	struct address addr;
};

/* The time up to which a source has used its rate, in ns of CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct source);
	__type(value, __u64);
} admissions SEC(".maps");

/* The network namespaces of the proxies' sockets that listen. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} accepting SEC(".maps");

/* A pod's connection to a proxy on its own loopback: nobody else can send there. */
static __always_inline void at_home(struct source *s, __u64 netns)
{
	s->netns = netns;
	__builtin_memset(&s->addr, 0, sizeof(s->addr));
}

static __always_inline void charge(const struct source *s)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 *until = bpf_map_lookup_elem(&admissions, s);
	if (!until) {
		__u64 first = now + admission_cost;
		bpf_map_update_elem(&admissions, s, &first, BPF_ANY);
	} else if (*until < now) {
		*until = now + admission_cost;
	} else {
		__sync_fetch_and_add(until, admission_cost);
	}
}

/* A proxy has accepted a connection. It is counted only now: who sends a SYN can write any address into it, and would use up
 * another's rate. Gateways' own connections come from addresses of nodes, and are made for many. */
static __always_inline void admitted(__u64 netns, const struct address *from)
{
	struct source s = { .addr = *from };
	if (!admission_cost)
		return;
	if (is_loopback(from))
		at_home(&s, netns);
	else if (bpf_map_lookup_elem(&nodes, from))
		return;
	charge(&s);
}

/* Whether a packet opens a connection, and between which ends. */
static __always_inline bool opens(struct __sk_buff *ctx, struct endpoint *from, struct endpoint *to)
{
	struct tcp t;
	__u32 at;
	if (ctx->protocol == ETH_P_IP) {
		struct ipv4 ip;
		if (bpf_skb_load_bytes(ctx, 0, &ip, sizeof(ip)))
			return false;
		mapped(&from->addr, ip.from);
		mapped(&to->addr, ip.to);
		at = (ip.version_length & 15) * 4;
	} else {
		struct ipv6 ip;
		if (bpf_skb_load_bytes(ctx, 0, &ip, sizeof(ip)))
			return false;
		from->addr = ip.from;
		to->addr = ip.to;
		if (ip.proto != IPPROTO_TCP)
			return true; /* Behind extension headers: judged as if it opened one. */
		at = sizeof(ip);
	}
	if (bpf_skb_load_bytes(ctx, at, &t, sizeof(t)))
		return false;
	from->port = t.from;
	to->port = t.to;
	return (t.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline void tell(__u64 netns, const struct endpoint *from, const struct endpoint *to)
{
	if (!bpf_map_lookup_elem(&pods, &netns))
		return; /* a Gateway's client */
	struct event *e = new_refusal(netns, &from->addr);
	if (!e)
		return;
	e->reason = REASON_RATE;
	e->local = is_loopback(&from->addr) ? *from : *to;
	e->remote = is_loopback(&from->addr) ? *to : *from;
	e->inbound = !is_loopback(&from->addr);
	e->original = *to;
	struct tuple key = { .netns = netns, .addr = *from, .proxy = to->port };
	struct endpoint *dest = bpf_map_lookup_elem(&by_tuple, &key);
	if (dest)
		e->original = *dest;
	submit(e);
}

/* A packet to a proxy's socket. One that opens a connection of a source that is over its rate is dropped as if it was lost: its
 * sender tries again after a second, and after longer times later. */
SEC("cgroup_skb/ingress")
int admit(struct __sk_buff *ctx)
{
	if (!admission_cost)
		return 1;
	struct bpf_sock *sk = ctx->sk ? bpf_sk_fullsock(ctx->sk) : 0;
	if (!sk || sk->state != BPF_TCP_LISTEN)
		return 1;
	struct endpoint from = {}, to = {};
	if (!opens(ctx, &from, &to))
		return 1;
	__u64 *known = bpf_sk_storage_get(&accepting, sk, 0, 0);
	__u64 netns = known ? *known : 0;
	struct source s = { .addr = from.addr };
	if (is_loopback(&from.addr))
		at_home(&s, netns);
	__u64 *until = bpf_map_lookup_elem(&admissions, &s);
	if (!until || *until < bpf_ktime_get_ns() + admission_burst)
		return 1;
	count_lost(LOST_CONNECTIONS);
	tell(netns, &from, &to);
	return 0;
}
