/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What local workloads say by UDP, and to DNS by TCP. Exchanges of datagrams are counted here, for there is no end of one that
 * could be told; messages of DNS are told as they are, and read in user space. No packet is changed or dropped. */
#pragma once
#include "event.h"
#include "kernel.h"
#include "packet.h"
#include "udpservice.h"

#define PORT_DNS bpf_htons(53)
#define DNS_HEADER 12
/* A header, the longest name (255 bytes, RFC 1035) with its type and class are 271 bytes. */
#define DNS_DATA 276

/* A message by TCP, behind its length (RFC 1035, 4.2.2). */
struct dns_by_tcp {
	__be16 length;
	__be16 id;
	__u8 flags; /* the upper half of them */
	__u8 code;
	__be16 questions;
	__be16 counts[3];
};

#define DNS_OPCODE 0x78

struct exchange_key {
	struct endpoint local;
	struct endpoint remote;
};

struct exchange {
	__u64 first; /* ns of CLOCK_MONOTONIC */
	__u64 last;
	__u64 sent; /* bytes of payload */
	__u64 received;
	__u64 netns;
	struct endpoint service; /* that was asked for; port 0: none */
	__u32 inbound;		 /* the remote end began */
};

/* User space takes out those that have ended. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct exchange_key);
	__type(value, struct exchange);
} exchanges SEC(".maps");

struct dns_message {
	__u64 time; /* ns of CLOCK_MONOTONIC */
	__u64 netns;
	struct endpoint local;
	struct endpoint remote;
	struct endpoint service; /* that was asked for; port 0: none */
	__u32 length;		 /* of the message, in bytes; data has the first of them */
	__u16 egress;
	__u16 tcp;
	__u8 data[DNS_DATA];
};

const volatile struct dns_message *const dns_message_type = 0; /* so that the layout is in the object */

#define DNS_RING_SIZE (1 << 19)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DNS_RING_SIZE);
} dns_messages SEC(".maps");

struct packet {
	struct endpoint local;
	struct endpoint remote;
	__u64 netns;
	__u32 payload; /* its offset */
	__u32 length;  /* of the payload */
	__u32 message; /* the length of the message, of which the payload may have less */
	bool tcp;
};

/* The cookie of the network namespace of a packet's socket; 0 if there is none. Before Linux 6.15 no helper tells it to these
 * programs. */
static __always_inline __u64 netns_of(struct __sk_buff *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sock *s = 0;
	__u64 cookie = 0;
	/* Read from memory, the pointer is a number, of which the verifier does not mind where it is read from. */
	if (sk && !bpf_probe_read_kernel(&s, sizeof(s), &sk))
		BPF_CORE_READ_INTO(&cookie, s, __sk_common.skc_net.net, net_cookie);
	return cookie;
}

/* Whether a local workload has the local end of a packet. Its address alone would not tell: whoever makes a network namespace
 * gives itself any address there. */
static __always_inline bool of_workload(struct __sk_buff *ctx, struct packet *p)
{
	p->netns = netns_of(ctx);
	struct own_key key = { .netns = p->netns, .addr = p->local.addr };
	return p->netns != host_netns && bpf_map_lookup_elem(&own, &key);
}

/* Reads the ends of a TCP segment, if one of them has DNS's port. The others are looked at no further. */
static __always_inline bool read_segment(struct __sk_buff *ctx, __u32 offset, struct packet *p, __be16 *from, __be16 *to)
{
	void *end = (void *)(long)ctx->data_end;
	struct tcp *h = (void *)(long)ctx->data + offset, t;
	if ((void *)(h + 1) > end || (h->from != PORT_DNS && h->to != PORT_DNS))
		return false;
	t = *h;
	*from = t.from;
	*to = t.to;
	p->payload = offset + (t.offset >> 4) * 4;
	p->tcp = true;
	return true;
}

/* Reads the ends of a UDP packet, or of a TCP segment from or to the port of DNS. The context begins with the IP header. */
static __always_inline bool read_packet(struct __sk_buff *ctx, bool egress, struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct endpoint *from = egress ? &p->local : &p->remote, *to = egress ? &p->remote : &p->local;
	__u32 offset;
	__u8 proto;
	if (ctx->protocol == ETH_P_IP) {
		struct ipv4 *h = data;
		if ((void *)(h + 1) > end || h->fragment & IP_FRAGMENT)
			return false;
		proto = h->proto;
		mapped(&from->addr, h->from);
		mapped(&to->addr, h->to);
		offset = (h->version_length & 0xf) * 4;
	} else {
		struct ipv6 *h = data;
		if ((void *)(h + 1) > end)
			return false;
		proto = h->proto;
		from->addr = h->from;
		to->addr = h->to;
		offset = sizeof(*h);
	}
	p->tcp = false;
	if (proto == IPPROTO_TCP) {
		/* IPv4 without options. The kernel has the header of each segment in one piece. */
		if (ctx->protocol == ETH_P_IP && offset != sizeof(struct ipv4))
			return false;
		offset = ctx->protocol == ETH_P_IP ? sizeof(struct ipv4) : sizeof(struct ipv6);
		if (!read_segment(ctx, offset, p, &from->port, &to->port) || ctx->len < p->payload + sizeof(struct dns_by_tcp))
			return false;
	} else if (proto != IPPROTO_UDP) {
		return false;
	}
	if (!of_workload(ctx, p))
		return false;
	if (!p->tcp) {
		struct udp u;
		p->payload = offset + sizeof(u);
		if (ctx->len < p->payload || bpf_skb_load_bytes(ctx, offset, &u, sizeof(u)))
			return false;
		from->port = u.from;
		to->port = u.to;
	}
	p->length = ctx->len - p->payload;
	p->message = p->length;
	p->local.pad = 0;
	p->remote.pad = 0;
	return true;
}

/* The Service that the socket's application sent to, if the other end is one of its backends. */
static __always_inline void asked(struct __sk_buff *ctx, const struct endpoint *remote, struct endpoint *service)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	struct conn *c = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : 0;
	if (c && c->original.port && equal(&c->dest, remote)) {
		*service = c->original;
		return;
	}
	struct udp_services *sent = sk ? bpf_sk_storage_get(&udp_services, sk, 0, 0) : 0;
	struct endpoint of = {};
	if (sent && service_of(sent, remote, &of))
		*service = of;
}

/* What others send to a workload takes nothing of what it may begin itself, and one of them takes half at most. */
static __always_inline bool within_quota(const struct packet *p, bool egress, __u32 kind, __u32 most)
{
	struct quota_key key = { .netns = p->netns, .from = p->remote.addr, .kind = kind + QUOTA_OF_PEER };
	if (!egress && !within(&key, most / 2))
		return false;
	key.from = p->local.addr;
	key.kind = egress ? kind : kind + QUOTA_INBOUND;
	return within(&key, most);
}

static __always_inline void tell_dns(struct __sk_buff *ctx, const struct packet *p, bool egress)
{
	struct dns_message *m = 0;
	if (within_quota(p, egress, QUOTA_DNS, QUOTA_DNS_MESSAGES))
		m = bpf_ringbuf_reserve(&dns_messages, sizeof(*m), 0);
	if (!m) {
		count_lost(LOST_DNS);
		return;
	}
	__builtin_memset(m, 0, sizeof(*m));
	m->time = bpf_ktime_get_ns();
	m->netns = p->netns;
	m->local = p->local;
	m->remote = p->remote;
	m->length = p->message;
	m->egress = egress;
	m->tcp = p->tcp;
	asked(ctx, &p->remote, &m->service);
	__u64 n = p->length;
	/* Without these the compiler drops the first check, which was made before, and joins it with the second: the verifier would
	 * not know one of the bounds. */
	asm volatile("" : "+r"(n));
	bool some = n >= DNS_HEADER;
	if (some) {
		asm volatile("" : "+r"(n));
		if (n > DNS_DATA)
			n = DNS_DATA;
		some = !bpf_skb_load_bytes(ctx, p->payload, m->data, n);
	}
	if (!some) {
		bpf_ringbuf_discard(m, BPF_RB_NO_WAKEUP);
		return;
	}
	bpf_ringbuf_submit(m, waking(&dns_messages, DNS_RING_SIZE, READS_DNS));
}

static __always_inline void count_exchange(struct __sk_buff *ctx, const struct packet *p, bool egress)
{
	struct exchange_key key = { .local = p->local, .remote = p->remote };
	struct exchange *x = bpf_map_lookup_elem(&exchanges, &key);
	if (x) {
		x->last = bpf_ktime_get_ns();
		__sync_fetch_and_add(egress ? &x->sent : &x->received, p->length);
		return;
	}
	struct exchange first = {
		.netns = p->netns,
		.first = bpf_ktime_get_ns(),
		.sent = egress ? p->length : 0,
		.received = egress ? 0 : p->length,
		.inbound = !egress,
	};
	first.last = first.first;
	if (egress)
		asked(ctx, &p->remote, &first.service);
	if (!within_quota(p, egress, QUOTA_EXCHANGES, QUOTA_NEW_EXCHANGES) || bpf_map_update_elem(&exchanges, &key, &first, BPF_NOEXIST))
		count_lost(LOST_EXCHANGES);
}

/* Finds the message that a TCP segment begins with. What is in the middle of a message looks otherwise, but for a coincidence that
 * user space notices: there is one question, and it is a query or its answer. */
static __always_inline bool begins_message(struct __sk_buff *ctx, struct packet *p)
{
	struct dns_by_tcp m;
	if (bpf_skb_load_bytes(ctx, p->payload, &m, sizeof(m)) || m.flags & DNS_OPCODE || m.questions != bpf_htons(1))
		return false;
	p->message = bpf_ntohs(m.length);
	p->payload += sizeof(m.length);
	p->length -= sizeof(m.length);
	if (p->length > p->message)
		p->length = p->message;
	return p->message >= DNS_HEADER;
}

static __always_inline int watch_packet(struct __sk_buff *ctx, bool egress)
{
	struct packet p;
	if (!read_packet(ctx, egress, &p))
		return 1;
	if (p.tcp) {
		if (begins_message(ctx, &p))
			tell_dns(ctx, &p, egress);
		return 1;
	}
	if ((p.local.port == PORT_DNS || p.remote.port == PORT_DNS) && p.length >= DNS_HEADER)
		tell_dns(ctx, &p, egress);
	else
		count_exchange(ctx, &p, egress);
	return 1;
}

SEC("cgroup_skb/egress")
int udp_egress(struct __sk_buff *ctx)
{
	return watch_packet(ctx, true);
}

SEC("cgroup_skb/ingress")
int udp_ingress(struct __sk_buff *ctx)
{
	return watch_packet(ctx, false);
}
