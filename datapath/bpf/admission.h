/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How many connections a source may have the proxies accept. Envoy accepts the connections of all on the same threads, so a
 * source that opens them as fast as it can slows the others. */
#pragma once
#include "guests.h"
#include "packet.h"
#include "probe.h"

#define TCP_SYN 2
#define TCP_RST 4
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

/* A proxy has accepted a connection. It is counted only now: who sends a SYN can write any address into it, and would use up
 * another's rate. Gateways' own connections come from addresses of nodes, and are made for many. */
static __always_inline void admitted(__u64 netns, const struct endpoint *local, const struct address *from)
{
	struct source s = { .addr = *from };
	guest_arrived(netns, &local->addr, bpf_ntohs(local->port), from);
	if (!admission_cost)
		return;
	if (is_loopback(from)) {
		if (netns == host_netns)
			return; /* Envoy's, to weft tunnel, for all pods */
		at_home(&s, netns);
	} else if (bpf_map_lookup_elem(&nodes, from))
		return;
	charge(&admissions, &s, admission_cost);
}

/* Reads the ends of a packet and its TCP flags. */
static __always_inline bool tcp_packet(struct __sk_buff *ctx, struct endpoint *from, struct endpoint *to, __u8 *flags)
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
		if (ip.proto != IPPROTO_TCP) {
			*flags = TCP_SYN; /* Behind extension headers: judged as if it opened one. */
			return true;
		}
		at = sizeof(ip);
	}
	if (bpf_skb_load_bytes(ctx, at, &t, sizeof(t)))
		return false;
	from->port = t.from;
	to->port = t.to;
	*flags = t.flags;
	return true;
}

static __always_inline void tell(__u64 netns, const struct endpoint *from, const struct endpoint *to, __u8 reason)
{
	if (!bpf_map_lookup_elem(&pods, &netns))
		return; /* a Gateway's client */
	struct event *e = new_refusal(netns, &from->addr);
	if (!e)
		return;
	e->reason = reason;
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

static __always_inline bool over_rate(__u64 netns, const struct address *from)
{
	if (!admission_cost)
		return false;
	struct source s = { .addr = *from };
	if (is_loopback(from))
		at_home(&s, netns);
	__u64 *until = bpf_map_lookup_elem(&admissions, &s);
	return until && *until >= bpf_ktime_get_ns() + admission_burst;
}

/* A packet to a proxy's socket. One that opens a connection of a source that is over its rate is dropped as if it was lost: its
 * sender tries again after a second, and after longer times later. Of guests the last packet of the TCP handshake is dropped too:
 * many may have begun one before the first was counted. */
SEC("cgroup_skb/ingress")
int admit(struct __sk_buff *ctx)
{
	struct bpf_sock *sk = ctx->sk ? bpf_sk_fullsock(ctx->sk) : 0;
	if (!sk || sk->state != BPF_TCP_LISTEN)
		return 1;
	struct endpoint from = {}, to = {};
	__u8 flags = 0, reason = REASON_NONE;
	if (!tcp_packet(ctx, &from, &to, &flags) || flags & TCP_RST)
		return 1;
	bool opens = (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	__u64 *known = bpf_sk_storage_get(&accepting, sk, 0, 0);
	__u64 netns = known ? *known : 0;
	if (guest_waits(netns, &to.addr, sk->src_port, &from.addr))
		reason = REASON_STRANGERS;
	else if (opens && over_rate(netns, &from.addr))
		reason = REASON_RATE;
	if (reason == REASON_NONE)
		return 1;
	if (opens) {
		count_lost(LOST_CONNECTIONS);
		tell(netns, &from, &to, reason);
	}
	return 0;
}
