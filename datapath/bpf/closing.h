/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Clients that close before it is known what they speak. Envoy resets a connection that ends while its first bytes are read, whatever
 * has come before. So the end (FIN) of one that Envoy inspects is kept back until the inspection is over: it is dropped, and the kernel
 * sends it again. */
#pragma once
#include "packet.h"

/* Longer than an inspection may take (timeouts.firstBytes in xds). The kernel tries again after 200 ms, and after 600 ms. */
#define INSPECTION_NS (550ULL * 1000 * 1000)
/* The packet is dropped, and TCP takes it for sent: it is sent again as one that was lost. */
#define DROP_AS_LOST 2

/* When a socket first tried to close. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} closings SEC(".maps");

/* Reports whether a packet ends a connection to Envoy's listener that inspects: on the loopback, whoever led it there. */
static __always_inline bool ends_inspected(struct __sk_buff *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct address to;
	struct tcp *t;
	if (ctx->protocol == ETH_P_IP) {
		struct ipv4 *h = data;
		t = (void *)(h + 1);
		if ((void *)(t + 1) > end || h->proto != IPPROTO_TCP || h->version_length != 0x45)
			return false;
		mapped(&to, h->to);
	} else {
		struct ipv6 *h = data;
		t = (void *)(h + 1);
		if ((void *)(t + 1) > end || h->proto != IPPROTO_TCP)
			return false;
		to = h->to;
	}
	return t->to == bpf_htons(PORT_DETECT) && t->flags & TCP_FIN && is_loopback(&to);
}

SEC("cgroup_skb/egress")
int hold_fin(struct __sk_buff *ctx)
{
	if (!ends_inspected(ctx))
		return 1;
	struct bpf_sock *sk = ctx->sk ? bpf_sk_fullsock(ctx->sk) : 0;
	struct bpf_tcp_sock *t = sk ? bpf_tcp_sock(sk) : 0;
	if (!t || t->bytes_received)
		return 1; /* what has an answer is inspected no more */
	__u64 now = bpf_ktime_get_ns();
	__u64 *since = bpf_sk_storage_get(&closings, sk, &now, BPF_SK_STORAGE_GET_F_CREATE);
	if (!since || now - *since >= INSPECTION_NS)
		return 1;
	return DROP_AS_LOST;
}
