/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The life of the applications' TCP connections. */
#pragma once
#include "event.h"

static __always_inline void watch(struct bpf_sock_ops *ops)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Before the SYN leaves: what Envoy will ask for, by the address that it will see. */
static __always_inline void connecting(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->flags & CONN_PROXY)
		return;
	__u64 netns = bpf_get_netns_cookie(ops);
	if (!bpf_map_lookup_elem(&pods, &netns))
		return;
	struct endpoint local, remote;
	ends(ops, &local, &remote);
	if (c && c->verdict >= VERDICT_L7) {
		struct tuple key = { .netns = netns, .addr = local };
		bpf_map_update_elem(&by_tuple, &key, &c->dest, BPF_ANY);
	} else if (is_loopback(&remote.addr)) {
		return;
	}
	c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	c->opened = bpf_ktime_get_ns();
	c->flags |= CONN_COUNTED;
	watch(ops);
}

static __always_inline void report(struct bpf_sock_ops *ops, struct conn *c, __u8 kind, bool inbound)
{
	struct event *e = new_event();
	if (!e)
		return;
	e->netns = bpf_get_netns_cookie(ops);
	e->kind = kind;
	e->inbound = inbound;
	e->verdict = c->verdict ? c->verdict : VERDICT_KERNEL;
	ends(ops, &e->local, &e->remote);
	e->original = c->original.port ? c->original : e->remote;
	if (c->verdict == VERDICT_MTLS)
		e->backend = c->dest;
	if (kind == EVENT_CLOSED) {
		e->duration = e->time - c->opened;
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
	__u64 netns = bpf_get_netns_cookie(ops);
	if (!bpf_map_lookup_elem(&pods, &netns))
		return;
	struct flow f = { .netns = netns };
	ends(ops, &f.to, &f.from);
	if (is_loopback(&f.to.addr) || bpf_map_lookup_elem(&from_proxy, &f))
		return;
	c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	c->opened = bpf_ktime_get_ns();
	c->flags = CONN_COUNTED | CONN_INBOUND;
	report(ops, c, EVENT_OPENED, true);
	watch(ops);
}

static __always_inline void closed(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c || !(c->flags & CONN_COUNTED))
		return;
	if (ops->args[0] == BPF_TCP_SYN_SENT && c->verdict >= VERDICT_L7) {
		struct endpoint remote;
		struct tuple key = { .netns = bpf_get_netns_cookie(ops) };
		ends(ops, &key.addr, &remote);
		bpf_map_delete_elem(&by_tuple, &key);
	}
	report(ops, c, EVENT_CLOSED, c->flags & CONN_INBOUND);
	c->flags &= ~CONN_COUNTED;
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
		c = bpf_sk_storage_get(&conns, sk, 0, 0);
		if (c && c->flags & CONN_COUNTED)
			report(ops, c, EVENT_OPENED, false);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		accepted(ops, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE)
			closed(ops, sk);
		break;
	}
	return 1;
}
