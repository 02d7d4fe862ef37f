/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The life of the applications' TCP connections. */
#pragma once
#include "probe.h"

/* A socket that is watched has a call for each change of its state. Whether a peer opened the connection is kept in a
 * flag too, that of retransmission timeouts, whose calls are rare and are ignored here: a storage for each socket would
 * take longer than all else that is done for it. */
#define WATCH BPF_SOCK_OPS_STATE_CB_FLAG
#define WATCH_INBOUND BPF_SOCK_OPS_RTO_CB_FLAG

static __always_inline void watch(struct bpf_sock_ops *ops, __u32 flags)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | flags);
}

/* Before the SYN leaves: what Envoy will ask for, by the address that it will see. */
static __always_inline void connecting(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->flags & CONN_PROXY)
		return;
	if (c && c->flags & CONN_PROBE) {
		if (probe_connects(ops))
			watch(ops, WATCH);
		return;
	}
	__u64 netns = bpf_get_netns_cookie(ops);
	if (!bpf_map_lookup_elem(&pods, &netns))
		return;
	struct endpoint local, remote;
	ends(ops, &local, &remote);
	if (c && c->verdict >= VERDICT_L7) {
		struct tuple key = { .netns = netns, .addr = local, .proxy = remote.port };
		/* The kernel may be unable to lock the bucket at once. Without a destination the proxy can do nothing. */
		for (int i = 0; i < 3 && bpf_map_update_elem(&by_tuple, &key, &c->dest, BPF_ANY); i++)
			;
	} else if (is_loopback(&remote.addr)) {
		return;
	}
	watch(ops, WATCH);
}

static __always_inline void report(struct bpf_sock_ops *ops, const struct conn *c, __u8 kind, bool inbound)
{
	struct event *e = new_event();
	if (!e)
		return;
	e->netns = bpf_get_netns_cookie(ops);
	e->kind = kind;
	e->inbound = inbound;
	e->verdict = c && c->verdict ? c->verdict : VERDICT_KERNEL;
	ends(ops, &e->local, &e->remote);
	e->original = c && c->original.port ? c->original : e->remote;
	if (c && c->verdict == VERDICT_MTLS)
		e->backend = c->dest;
	if (kind == EVENT_CLOSED) {
		e->sent = ops->bytes_acked;
		e->received = ops->bytes_received;
		e->rtt = ops->srtt_us >> 3;
		e->retransmits = ops->total_retrans;
	}
	submit(e);
}

static __always_inline void accepted(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->flags & CONN_PROXY)
		return;
	struct flow f = { .netns = bpf_get_netns_cookie(ops) };
	if (!bpf_map_lookup_elem(&pods, &f.netns))
		return;
	ends(ops, &f.to, &f.from);
	if (is_loopback(&f.to.addr) || bpf_map_lookup_elem(&from_proxy, &f))
		return;
	report(ops, 0, EVENT_OPENED, true);
	watch(ops, WATCH | WATCH_INBOUND);
}

static __always_inline void closed(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->flags & CONN_PROXY)
		return;
	if (c && c->flags & CONN_PROBE) {
		probe_closed(ops);
		return;
	}
	if (c && ops->args[0] == BPF_TCP_SYN_SENT && c->verdict >= VERDICT_L7) {
		struct endpoint remote;
		struct tuple key = { .netns = bpf_get_netns_cookie(ops) };
		ends(ops, &key.addr, &remote);
		key.proxy = remote.port;
		bpf_map_delete_elem(&by_tuple, &key);
	}
	report(ops, c, EVENT_CLOSED, ops->bpf_sock_ops_cb_flags & WATCH_INBOUND);
}

SEC("sockops")
int app_sockops(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct conn *c;
	if (!sk)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connecting(ops, sk);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (ops->bpf_sock_ops_cb_flags & WATCH) {
			c = bpf_sk_storage_get(&conns, sk, 0, 0);
			if (c && c->flags & CONN_PROBE)
				probe_connected(ops);
			else if (!c || !(c->flags & CONN_PROXY))
				report(ops, c, EVENT_OPENED, false);
		}
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(ops, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE && ops->args[0] != BPF_TCP_CLOSE)
			closed(ops, sk);
		break;
	}
	return 1;
}
