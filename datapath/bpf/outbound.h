/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* An application connects, sends datagrams, asks who its peer is. */
#pragma once
#include "probe.h"
#include "service.h"
#include "udpservice.h"

enum { PASS, CHANGED, REFUSED };

/* False on kernels before 6.1, which cannot say which error connect() is to return: there it is EPERM. The verifier
 * drops the branch. */
const volatile bool have_set_retval = true;

static __always_inline int refuse(struct bpf_sock_addr *ctx, __u64 netns, const __u32 *pod, const struct endpoint *to,
				  const struct endpoint *backend, __u8 reason)
{
	struct address all = {};
	struct event *e = pod ? new_refusal(netns, &all) : 0;
	if (e) {
		e->reason = reason;
		e->original = *to;
		e->remote = *backend;
		submit(e);
	}
	if (have_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSED;
}

/* Does Envoy listen on this loopback port in the caller's namespace? */
static __always_inline bool listening(struct bpf_sock_addr *ctx, const struct endpoint *to, __u16 port)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	if (is_mapped(&to->addr)) {
		t.ipv4.daddr = bpf_htonl(0x7f000001);
		t.ipv4.dport = bpf_htons(port);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		t.ipv6.daddr[3] = bpf_htonl(1);
		t.ipv6.dport = bpf_htons(port);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	bool ok = sk->state == BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return ok;
}

/* A socket that is bound to a device other than lo could not reach the proxy. The binding goes: the proxy's own connection
 * takes the route that the pod has. */
static __always_inline void unbind(struct bpf_sock_addr *ctx)
{
	char none[4] = {};
	if (ctx->sk->bound_dev_if)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none));
}

/* Remembers with the socket where it was going. */
static __always_inline bool remember(struct bpf_sock_addr *ctx, struct conn *old, const struct endpoint *original,
				     const struct endpoint *dest, __u8 verdict)
{
	struct conn *c = old;
	if (!c)
		c = bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return false;
	c->original = *original;
	c->dest = *dest;
	c->verdict = verdict;
	c->flags = 0;
	return true;
}

/* Does Envoy take connections to an endpoint whose address has these flags, whoever else listens? */
static __always_inline bool by_envoy(__u32 peer, const struct endpoint *dest)
{
	if (!(peer & PEER_BY_ENVOY))
		return false;
	return !(peer & PEER_SOME_PORTS) || bpf_map_lookup_elem(&inspected_ports, dest);
}

/* A TCP connection from a local workload to dest: in the clear, by a proxy, or not at all. dest is a backend if the
 * application asked for a Service, else equal to original. */
static __always_inline int authenticate(struct bpf_sock_addr *ctx, struct conn *old, __u64 netns, const __u32 *pod,
					const struct endpoint *original, struct endpoint *dest)
{
	if (!(*pod & WORKLOAD_IDENTITY))
		return PASS;
	__u32 *peer = bpf_map_lookup_elem(&peers, &dest->addr);
	if (!peer || !(*peer & (WORKLOAD_IDENTITY | ADDRESS_CONTESTED)))
		return PASS;
	struct own_key self = { .netns = netns, .addr = dest->addr };
	if (bpf_map_lookup_elem(&own, &self))
		return PASS;
	if (*peer & ADDRESS_CONTESTED)
		return refuse(ctx, netns, pod, original, dest, REASON_CONTESTED);
	__u16 port = PORT_TUNNEL_OUT;
	if (!(*pod & WORKLOAD_TUNNEL) || by_envoy(*peer, dest) || !listening(ctx, dest, PORT_TUNNEL_OUT))
		port = PORT_TCP;
	if (port == PORT_TCP && !listening(ctx, dest, PORT_TCP)) {
		if ((*pod | *peer) & WORKLOAD_STRICT)
			return refuse(ctx, netns, pod, original, dest, REASON_NO_PROXY);
		return PASS;
	}
	/* Without a memory of the destination the proxy could not tell where to go. */
	if (!remember(ctx, old, original, dest, VERDICT_MTLS))
		return refuse(ctx, netns, pod, original, dest, REASON_NO_PROXY);
	loopback(dest, port);
	unbind(ctx);
	return CHANGED;
}

static __always_inline int connect_tcp(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	struct conn *old = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
	if (old) {
		if (old->flags & CONN_PROXY)
			return PASS;
		old->original.port = 0; /* from an earlier connect() of this socket */
		old->verdict = VERDICT_KERNEL;
		old->flags = 0;
	}
	struct endpoint original = *to;
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u32 *pod = bpf_map_lookup_elem(&pods, &netns);
	struct frontend *f = find_service(to, IPPROTO_TCP, 0);
	__u8 caller = 0;
	if (f && pod && f->flags & FRONTEND_CALLERS && *pod >> CALLER_SHIFT) {
		struct frontend *theirs = find_service(to, IPPROTO_TCP, *pod >> CALLER_SHIFT);
		if (theirs) {
			f = theirs;
			caller = *pod >> CALLER_SHIFT;
		}
	}
	if (f) {
		__u16 envoy = f->flags & FRONTEND_SNI ? PORT_SNI : f->flags & FRONTEND_DETECT ? PORT_DETECT : PORT_HTTP;
		if (pod && f->flags & FRONTEND_L7 && ctx->sk->mark != MARK_BYTES && listening(ctx, to, envoy) &&
		    remember(ctx, old, &original, &original, VERDICT_L7)) {
			loopback(to, envoy);
			unbind(ctx);
			return CHANGED;
		}
		bool found = f->affinity ? pick_same(&original, IPPROTO_TCP, caller, f, netns, f->affinity, to)
					 : pick_any(&original, IPPROTO_TCP, caller, f, to);
		if (!found)
			return refuse(ctx, netns, pod, &original, to, REASON_NO_BACKEND);
	}
	if (pod) {
		int r = authenticate(ctx, old, netns, pod, &original, to);
		if (r != PASS)
			return r;
	}
	if (!f) {
		if (netns == host_netns)
			mark_probe(ctx, to);
		return PASS;
	}
	remember(ctx, old, &original, to, VERDICT_KERNEL); /* else getpeername() tells the backend: no harm */
	return CHANGED;
}

/* A datagram to an address that is not a Service's, or a socket that is connected to one: answers from there are from there. */
static __always_inline void forget_service(struct bpf_sock_addr *ctx, const struct endpoint *to, bool connected)
{
	if (connected) {
		struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
		if (c)
			c->original.port = 0;
	}
	struct udp_services *sent = bpf_sk_storage_get(&udp_services, ctx->sk, 0, 0);
	if (sent)
		sent_directly(sent, to);
}

/* Datagrams. A connected socket picks once; others keep to a backend for each Service they send to, for a protocol
 * such as QUIC must meet the same server again.
 *
 * An answer tells which backend it is from, not what it answers. If a socket sent to a backend in several roles, its
 * answers are shown as from what the socket sent to last. */
static __always_inline int datagram(struct bpf_sock_addr *ctx, struct endpoint *to, bool connected)
{
	struct frontend *f = find_service(to, IPPROTO_UDP, 0);
	if (!f) {
		forget_service(ctx, to, connected);
		return PASS;
	}
	struct endpoint original = *to;
	__u64 netns = bpf_get_netns_cookie(ctx), now = bpf_ktime_get_ns();
	struct udp_services *sent = connected ? 0 : bpf_sk_storage_get(&udp_services, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	bool found;
	if (f->affinity)
		found = pick_same(&original, IPPROTO_UDP, 0, f, netns, f->affinity, to);
	else if (connected)
		found = pick_any(&original, IPPROTO_UDP, 0, f, to);
	else
		found = pick_of_socket(sent, &original, f, now, to);
	if (!found) {
		if (have_set_retval)
			bpf_set_retval(-ECONNREFUSED);
		return REFUSED;
	}
	/* Without memory for it answers are shown as from the backend. */
	if (connected)
		remember(ctx, bpf_sk_storage_get(&conns, ctx->sk, 0, 0), &original, to, VERDICT_KERNEL);
	else if (sent)
		sent_to(sent, &original, to, now);
	return CHANGED;
}

static __always_inline int connect_any(struct bpf_sock_addr *ctx, struct endpoint *to)
{
	switch (ctx->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_MPTCP:
		return connect_tcp(ctx, to);
	case IPPROTO_UDP:
		return datagram(ctx, to, true);
	}
	return PASS;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load4(&to, ctx);
	int r = connect_any(ctx, &to);
	if (r == CHANGED)
		store4(ctx, &to);
	return r != REFUSED;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load6(&to, ctx);
	int r = connect_any(ctx, &to);
	if (r == CHANGED)
		store6(ctx, &to);
	return r != REFUSED;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load4(&to, ctx);
	int r = datagram(ctx, &to, false);
	if (r == CHANGED)
		store4(ctx, &to);
	return r != REFUSED;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct endpoint to;
	load6(&to, ctx);
	int r = datagram(ctx, &to, false);
	if (r == CHANGED)
		store6(ctx, &to);
	return r != REFUSED;
}

/* A connected socket has one peer. What is remembered with it stays after connect() with AF_UNSPEC, of which no program is
 * told, but then the socket has another state. */
static __always_inline bool received_from(struct bpf_sock_addr *ctx, struct endpoint *from)
{
	struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
	if (c && c->original.port && ctx->sk->state == BPF_TCP_ESTABLISHED && equal(&c->dest, from)) {
		*from = c->original;
		return true;
	}
	struct udp_services *sent = bpf_sk_storage_get(&udp_services, ctx->sk, 0, 0);
	struct endpoint service = {};
	if (!sent || !service_of(sent, from, &service))
		return false;
	*from = service;
	return true;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint from;
	load4(&from, ctx);
	if (received_from(ctx, &from))
		store4(ctx, &from);
	return 1;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct endpoint from;
	load6(&from, ctx);
	if (received_from(ctx, &from))
		store6(ctx, &from);
	return 1;
}

/* The peer is the one that is remembered, unless a connect() failed after the programs had their say. */
static __always_inline bool peer_name(struct bpf_sock_addr *ctx, struct endpoint *peer)
{
	struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
	if (!c || !c->original.port || (c->verdict < VERDICT_L7 && !equal(&c->dest, peer)))
		return false;
	*peer = c->original;
	return true;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	load4(&peer, ctx);
	if (peer_name(ctx, &peer))
		store4(ctx, &peer);
	return 1;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct endpoint peer;
	load6(&peer, ctx);
	if (peer_name(ctx, &peer))
		store6(ctx, &peer);
	return 1;
}

/* A connection that is led to a proxy has a loopback address. Its application is told the one that it would have. */
static __always_inline bool own_name(struct bpf_sock_addr *ctx, struct endpoint *own)
{
	struct conn *c = bpf_sk_storage_get(&conns, ctx->sk, 0, 0);
	if (!c || !c->original.port || c->verdict < VERDICT_L7 || !is_loopback(&own->addr))
		return false;
	struct self_key key = { .netns = bpf_get_netns_cookie(ctx), .ipv6 = !is_mapped(&own->addr) };
	struct address *a = bpf_map_lookup_elem(&selves, &key);
	if (!a)
		return false;
	own->addr = *a;
	return true;
}

SEC("cgroup/getsockname4")
int getsockname4(struct bpf_sock_addr *ctx)
{
	struct endpoint own;
	load4(&own, ctx);
	if (own_name(ctx, &own))
		store4(ctx, &own);
	return 1;
}

SEC("cgroup/getsockname6")
int getsockname6(struct bpf_sock_addr *ctx)
{
	struct endpoint own;
	load6(&own, ctx);
	if (own_name(ctx, &own))
		store6(ctx, &own);
	return 1;
}
