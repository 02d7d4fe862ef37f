/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A peer connects to a local workload. The program is loaded once for each workload, because sk_lookup has no helper
 * that tells the network namespace. */
#pragma once
#include "probe.h"

const volatile __u64 own_netns = 0; /* cookie of the workload's namespace */

static __always_inline int drop(const struct flow *f, __u8 reason)
{
	if (bpf_ntohs(f->to.port) >= 32768)
		return SK_DROP; /* may be a late packet of a connection that the workload made */
	struct event *e = new_refusal(f->netns, &f->from.addr);
	if (e) {
		e->reason = reason;
		e->inbound = 1;
		e->local = f->to;
		e->remote = f->from;
		e->original = f->to;
		submit(e);
	}
	return SK_DROP;
}

/* Hands a connection to Envoy's socket that listens on a port of the address that it came to. */
static __always_inline bool steer(struct bpf_sk_lookup *ctx, const struct flow *f, __u32 port, int *result)
{
	struct listener_key key = { .netns = f->netns, .addr = f->to.addr, .port = port };
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk) {
		key.latest = 1;
		sk = bpf_map_lookup_elem(&listeners, &key);
		if (!sk)
			return false;
	}
	*result = bpf_sk_assign(ctx, sk, 0) ? SK_DROP : SK_PASS;
	bpf_sk_release(sk);
	return true;
}

SEC("sk_lookup")
int inbound(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	__u64 netns = own_netns;
	__u32 *pod = bpf_map_lookup_elem(&pods, &netns);
	/* A workload whose entry could not be written is judged as strict: the program is attached without an entry
	 * only to workloads that are not open. */
	__u32 flags = pod ? *pod : WORKLOAD_STRICT | WORKLOAD_IDENTITY;
	int result = SK_DROP;
	/* Only Envoy and weft tunnel authenticate. An application that listens on their ports is judged like one on any other. */
	bool hbone = ctx->local_port == PORT_HBONE && flags & WORKLOAD_IDENTITY;
	bool tunnel = ctx->local_port == PORT_TUNNEL && flags & WORKLOAD_IDENTITY;
	bool open = !(flags & (WORKLOAD_STRICT | WORKLOAD_POLICED));
	if (open && !hbone && !tunnel)
		return SK_PASS;
	struct flow f = { .netns = netns };
	f.from.port = (__be16)ctx->remote_port;
	f.to.port = bpf_htons((__u16)ctx->local_port);
	bool v4 = ctx->family == AF_INET;
	__be32 r4 = LOAD(ctx->remote_ip4), r0 = LOAD(ctx->remote_ip6[0]), r1 = LOAD(ctx->remote_ip6[1]);
	__be32 r2 = LOAD(ctx->remote_ip6[2]), r3 = LOAD(ctx->remote_ip6[3]);
	__be32 l4 = LOAD(ctx->local_ip4), l0 = LOAD(ctx->local_ip6[0]), l1 = LOAD(ctx->local_ip6[1]);
	__be32 l2 = LOAD(ctx->local_ip6[2]), l3 = LOAD(ctx->local_ip6[3]);
	choose(&f.from.addr, v4, r4, r0, r1, r2, r3);
	choose(&f.to.addr, v4, l4, l0, l1, l2, l3);
	if (is_loopback(&f.to.addr) || same(&f.to.addr, &f.from.addr))
		return SK_PASS;
	struct own_key self = { .netns = netns, .addr = f.from.addr };
	if (bpf_map_lookup_elem(&own, &self))
		return SK_PASS;
	if (bpf_map_lookup_elem(&from_proxy, &f))
		return SK_PASS;
	if ((hbone || tunnel) && steer(ctx, &f, tunnel ? PORT_TUNNEL : PORT_HBONE, &result))
		return result;
	if (open)
		return SK_PASS;
	if (is_probe(&f))
		return SK_PASS;
	if (flags & WORKLOAD_STRICT)
		return drop(&f, !pod ? REASON_NOT_PROGRAMMED : hbone || tunnel ? REASON_NO_PROXY : REASON_PLAINTEXT);
	if (ctx->local_port == PORT_IN)
		return SK_DROP; /* Envoy's own port: its filter would take that for the workload's and meet itself */
	return steer(ctx, &f, PORT_IN, &result) ? result : drop(&f, REASON_NO_POLICY_PORT);
}
