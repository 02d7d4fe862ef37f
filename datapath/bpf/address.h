/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses and ports as the different contexts show them. */
#pragma once
#include "maps.h"
#include "ports.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define EADDRNOTAVAIL 99
#define ECONNREFUSED 111
#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25

#define MAPPED bpf_htonl(0xffff)

static __always_inline void mapped(struct address *a, __be32 ip)
{
	a->ip[0] = 0;
	a->ip[1] = 0;
	a->ip[2] = MAPPED;
	a->ip[3] = ip;
}

static __always_inline bool is_mapped(const struct address *a)
{
	return a->ip[0] == 0 && a->ip[1] == 0 && a->ip[2] == MAPPED;
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return a->ip[0] == b->ip[0] && a->ip[1] == b->ip[1] && a->ip[2] == b->ip[2] && a->ip[3] == b->ip[3];
}

static __always_inline bool equal(const struct endpoint *a, const struct endpoint *b)
{
	return same(&a->addr, &b->addr) && a->port == b->port;
}

static __always_inline bool is_loopback(const struct address *a)
{
	if (is_mapped(a))
		return (a->ip[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return a->ip[0] == 0 && a->ip[1] == 0 && a->ip[2] == 0 && a->ip[3] == bpf_htonl(1);
}

/* The loopback address of the family that the connection has on the wire. */
static __always_inline void loopback(struct endpoint *e, __u16 port)
{
	if (is_mapped(&e->addr)) {
		mapped(&e->addr, bpf_htonl(0x7f000001));
	} else {
		e->addr.ip[0] = 0;
		e->addr.ip[1] = 0;
		e->addr.ip[2] = 0;
		e->addr.ip[3] = bpf_htonl(1);
	}
	e->port = bpf_htons(port);
}

static __always_inline void load4(struct endpoint *e, struct bpf_sock_addr *ctx)
{
	mapped(&e->addr, ctx->user_ip4);
	e->port = (__be16)ctx->user_port;
	e->pad = 0;
}

static __always_inline void load6(struct endpoint *e, struct bpf_sock_addr *ctx)
{
	e->addr.ip[0] = ctx->user_ip6[0];
	e->addr.ip[1] = ctx->user_ip6[1];
	e->addr.ip[2] = ctx->user_ip6[2];
	e->addr.ip[3] = ctx->user_ip6[3];
	e->port = (__be16)ctx->user_port;
	e->pad = 0;
}

static __always_inline void store4(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip4 = e->addr.ip[3];
	ctx->user_port = e->port;
}

static __always_inline void store6(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip6[0] = e->addr.ip[0];
	ctx->user_ip6[1] = e->addr.ip[1];
	ctx->user_ip6[2] = e->addr.ip[2];
	ctx->user_ip6[3] = e->addr.ip[3];
	ctx->user_port = e->port;
}

/* A load that stays where it is. A context must be read at constant offsets, but the compiler joins loads of two
 * branches into one with a computed offset; so all fields are loaded before the branch. */
#define LOAD(field) (*(volatile typeof(field) *)&(field))

static __always_inline void choose(struct address *a, bool v4, __be32 ip4, __be32 a0, __be32 a1, __be32 a2, __be32 a3)
{
	a->ip[0] = v4 ? 0 : a0;
	a->ip[1] = v4 ? 0 : a1;
	a->ip[2] = v4 ? MAPPED : a2;
	a->ip[3] = v4 ? ip4 : a3;
}

static __always_inline void local_end(struct bpf_sock_ops *ops, struct endpoint *e, bool v4)
{
	__be32 ip4 = LOAD(ops->local_ip4), a0 = LOAD(ops->local_ip6[0]), a1 = LOAD(ops->local_ip6[1]);
	__be32 a2 = LOAD(ops->local_ip6[2]), a3 = LOAD(ops->local_ip6[3]);
	choose(&e->addr, v4, ip4, a0, a1, a2, a3);
	e->port = bpf_htons((__u16)LOAD(ops->local_port));
	e->pad = 0;
}

/* Both ends of a socket. An IPv6 socket that speaks IPv4 has its addresses in the IPv4 fields; the IPv6 ones are not
 * all filled yet when it connects. */
static __always_inline void ends(struct bpf_sock_ops *ops, struct endpoint *local, struct endpoint *remote)
{
	__be32 ip4 = LOAD(ops->remote_ip4), a0 = LOAD(ops->remote_ip6[0]), a1 = LOAD(ops->remote_ip6[1]);
	__be32 a2 = LOAD(ops->remote_ip6[2]), a3 = LOAD(ops->remote_ip6[3]);
	bool v4 = LOAD(ops->family) == AF_INET || (a0 == 0 && a1 == 0 && a2 == MAPPED);
	choose(&remote->addr, v4, ip4, a0, a1, a2, a3);
	remote->port = (__be16)(LOAD(ops->remote_port) >> 16); /* network byte order, in the upper half */
	remote->pad = 0;
	local_end(ops, local, v4);
}
