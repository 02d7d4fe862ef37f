/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The sockets of Envoy and of weft tunnel, which share a cgroup. These programs hang on that cgroup, and the kernel runs a
 * cgroup's programs before those of its parents: so the others find the proxies' sockets marked. */
#pragma once
#include "admission.h"
#include "outbound.h"
#include "sockops.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* also IP6T_SO_ORIGINAL_DST */

struct sockaddr_in {
	__u16 sin_family;
	__be16 sin_port;
	__be32 sin_addr;
	__u8 pad[8];
};

struct sockaddr_in6 {
	__u16 sin6_family;
	__be16 sin6_port;
	__be32 sin6_flowinfo;
	__be32 sin6_addr[4];
	__u32 sin6_scope_id;
};

/* Whether the workload has a socket for a connection between these ends already: the client, whose address and port the
 * proxy wants to use, connected to the workload directly. The workload's socket would take the proxy's SYN for a stray packet
 * of that connection, and answer it to the client. */
static __always_inline bool connected_directly(struct bpf_sock_addr *ctx, const struct flow *f)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	if (is_mapped(&f->to.addr)) {
		t.ipv4.saddr = f->from.addr.ip[3];
		t.ipv4.sport = f->from.port;
		t.ipv4.daddr = f->to.addr.ip[3];
		t.ipv4.dport = f->to.port;
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(t.ipv6.saddr, &f->from.addr, sizeof(t.ipv6.saddr));
		t.ipv6.sport = f->from.port;
		__builtin_memcpy(t.ipv6.daddr, &f->to.addr, sizeof(t.ipv6.daddr));
		t.ipv6.dport = f->to.port;
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	/* One in TIME_WAIT gives way to the SYN. */
	bool live = sk->state != BPF_TCP_LISTEN && sk->state != BPF_TCP_TIME_WAIT;
	bpf_sk_release(sk);
	return live;
}

/* A proxy's socket that is bound connects to the workload in the client's name. */
static __always_inline bool usable(struct bpf_sock_addr *ctx, const struct endpoint *to, bool v4)
{
	__u32 port = ctx->sk->src_port, one = 1;
	if (!port)
		return true;
	struct flow f = { .netns = bpf_get_netns_cookie(ctx), .to = *to };
	struct own_key key = { .netns = f.netns, .addr = to->addr };
	if (!bpf_map_lookup_elem(&own, &key))
		return true;
	__be32 ip4 = ctx->sk->src_ip4, a0 = ctx->sk->src_ip6[0], a1 = ctx->sk->src_ip6[1];
	__be32 a2 = ctx->sk->src_ip6[2], a3 = ctx->sk->src_ip6[3];
	choose(&f.from.addr, v4, ip4, a0, a1, a2, a3);
	f.from.port = bpf_htons(port);
	/* The lookup meets inbound, which lets pass what is in from_proxy. */
	bool known = bpf_map_lookup_elem(&from_proxy, &f);
	if (!known)
		bpf_map_update_elem(&from_proxy, &f, &one, BPF_ANY);
	if (!connected_directly(ctx, &f))
		return true;
	if (!known)
		bpf_map_delete_elem(&from_proxy, &f);
	return false;
}

static __always_inline int mark(struct bpf_sock_addr *ctx, const struct endpoint *to, bool v4)
{
	/* Envoy found that the connection does not speak HTTP: it goes on as the application's own. */
	if (ctx->sk->mark == MARK_BYTES)
		return 1;
	struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return 0; /* unmarked it would be led back to itself */
	c->flags = CONN_PROXY;
	if (usable(ctx, to, v4))
		return 1;
	if (have_set_retval)
		bpf_set_retval(-EADDRNOTAVAIL);
	return 0;
}

SEC("cgroup/connect4")
int proxy_connect4(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load4(&to, ctx);
	return mark(ctx, &to, true);
}

SEC("cgroup/connect6")
int proxy_connect6(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load6(&to, ctx);
	return mark(ctx, &to, false);
}

/* Envoy's connection to the workload whose namespace it is in, so that inbound lets it pass. */
static __always_inline void proxy_connecting(struct bpf_sock_ops *ops)
{
	__u32 one = 1;
	struct flow f = { .netns = bpf_get_netns_cookie(ops) };
	ends(ops, &f.from, &f.to);
	struct own_key key = { .netns = f.netns, .addr = f.to.addr };
	if (!bpf_map_lookup_elem(&own, &key))
		return;
	bpf_map_update_elem(&from_proxy, &f, &one, BPF_ANY);
	watch(ops, WATCH);
}

static __always_inline void proxy_closed(struct bpf_sock_ops *ops)
{
	struct flow f = { .netns = bpf_get_netns_cookie(ops) };
	ends(ops, &f.from, &f.to);
	bpf_map_delete_elem(&from_proxy, &f);
}

/* The destination moves to Envoy's socket as soon as there is one: then nothing has to be kept by address, which
 * another connection may use again. */
static __always_inline void proxy_accepted(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	c->flags = CONN_PROXY;
	struct endpoint local;
	struct tuple key = { .netns = bpf_get_netns_cookie(ops) };
	ends(ops, &local, &key.addr);
	admitted(key.netns, &local, &key.addr.addr);
	if (!is_loopback(&local.addr))
		return;
	key.proxy = local.port;
	struct endpoint *dest = bpf_map_lookup_elem(&by_tuple, &key);
	if (!dest)
		return;
	c->dest = *dest;
	bpf_map_delete_elem(&by_tuple, &key);
}

static __always_inline void proxy_listens(struct bpf_sock_ops *ops)
{
	__u32 port = LOAD(ops->local_port);
	struct bpf_sock *sk = ops->sk;
	__u64 *in = sk ? bpf_sk_storage_get(&accepting, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
	if (in)
		*in = bpf_get_netns_cookie(ops);
	if (port != PORT_IN && port != PORT_HBONE && port != PORT_TUNNEL)
		return;
	struct endpoint local;
	local_end(ops, &local, LOAD(ops->family) == AF_INET);
	struct listener_key key = { .netns = bpf_get_netns_cookie(ops), .addr = local.addr, .port = port };
	bpf_sock_hash_update(ops, &listeners, &key, BPF_NOEXIST);
	key.latest = 1;
	bpf_sock_hash_update(ops, &listeners, &key, BPF_ANY);
}

SEC("sockops")
int proxy_sockops(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	if (!sk)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		proxy_connecting(ops);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		proxy_listens(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		proxy_accepted(ops, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE)
			proxy_closed(ops);
		break;
	}
	return 1;
}

/* Where a connection went that Envoy accepted. One that was not redirected by connect() went to its own local address:
 * that is so for what inbound steered. A destination is still kept by address if the socket got no storage when it was
 * accepted. */
static __always_inline void destination(struct bpf_sockopt *ctx, struct bpf_sock *sk, struct endpoint *e)
{
	__be32 ip4 = LOAD(sk->src_ip4), a0 = LOAD(sk->src_ip6[0]), a1 = LOAD(sk->src_ip6[1]);
	__be32 a2 = LOAD(sk->src_ip6[2]), a3 = LOAD(sk->src_ip6[3]);
	__be32 dst4 = LOAD(sk->dst_ip4), d0 = LOAD(sk->dst_ip6[0]), d1 = LOAD(sk->dst_ip6[1]);
	__be32 d2 = LOAD(sk->dst_ip6[2]), d3 = LOAD(sk->dst_ip6[3]);
	bool v4 = LOAD(sk->family) == AF_INET || (a0 == 0 && a1 == 0 && a2 == MAPPED);
	choose(&e->addr, v4, ip4, a0, a1, a2, a3);
	e->port = bpf_htons(LOAD(sk->src_port));
	e->pad = 0;
	if (!is_loopback(&e->addr))
		return;
	struct tuple key = { .netns = bpf_get_netns_cookie(ctx), .proxy = e->port };
	choose(&key.addr.addr, v4, dst4, d0, d1, d2, d3);
	key.addr.port = LOAD(sk->dst_port);
	struct endpoint *dest = bpf_map_lookup_elem(&by_tuple, &key);
	if (dest)
		*e = *dest;
}

/* What Envoy's original_dst filter asks for. */
SEC("cgroup/getsockopt")
int proxy_getsockopt(struct bpf_sockopt *ctx)
{
	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6))
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct endpoint e = {};
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->dest.port)
		e = c->dest;
	else
		destination(ctx, sk, &e);
	__s32 len;
	if (ctx->level == SOL_IP) {
		struct sockaddr_in *v = ctx->optval;
		if (!is_mapped(&e.addr) || (void *)(v + 1) > ctx->optval_end)
			return 1;
		v->sin_family = AF_INET;
		v->sin_port = e.port;
		v->sin_addr = e.addr.ip[3];
		__builtin_memset(v->pad, 0, sizeof(v->pad));
		len = sizeof(*v);
	} else {
		struct sockaddr_in6 *v = ctx->optval;
		if ((void *)(v + 1) > ctx->optval_end)
			return 1;
		v->sin6_family = AF_INET6;
		v->sin6_port = e.port;
		v->sin6_flowinfo = 0;
		v->sin6_addr[0] = e.addr.ip[0];
		v->sin6_addr[1] = e.addr.ip[1];
		v->sin6_addr[2] = e.addr.ip[2];
		v->sin6_addr[3] = e.addr.ip[3];
		v->sin6_scope_id = 0;
		len = sizeof(*v);
	}
	/* Two stores of 32 bits: the verifier refuses the one of 64 that the compiler would make of them. */
	*(volatile __s32 *)&ctx->optlen = len;
	*(volatile __s32 *)&ctx->retval = 0;
	return 1;
}
