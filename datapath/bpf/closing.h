/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Clients that end their side before the other one has answered. Envoy does not serve them: it resets a connection that ends while its
 * first bytes are read, whatever has come before, and drops a request whose client has ended its side (shutdown(), not close()). So the
 * end (FIN) is kept back: it is dropped, and the kernel sends it again. */
#pragma once
#include "packet.h"

/* Longer than an inspection may take (timeouts.firstBytes in xds). The kernel tries again after 200 ms, and after 600 ms. */
#define INSPECTION_NS (550ULL * 1000 * 1000)
/* How long an answer is waited for. The kernel tries again after 51 s, and after 102 s. */
#define ANSWER_NS (60ULL * 1000 * 1000 * 1000)
/* An answer has ended if nothing of it comes for so long. The kernel tries again after 600 ms, and after 1.4 s. */
#define QUIET_NS (700ULL * 1000 * 1000)
/* The packet is dropped, and TCP takes it for sent: it is sent again as one that was lost. */
#define DROP_AS_LOST 2

struct closing {
	__u64 since;    /* when the socket first tried to close */
	__u64 at;       /* when more of the answer was seen to have come; 0: nothing came */
	__u64 received; /* bytes of it */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct closing);
} closings SEC(".maps");

/* A packet that ends a connection to Envoy's listeners for requests: on the loopback, whoever led it there. */
struct end {
	__u16 port;  /* 0: it is none */
	bool filled; /* it has the last bytes too */
};

static __always_inline struct end ends_request(struct __sk_buff *ctx)
{
	void *data = (void *)(long)ctx->data, *limit = (void *)(long)ctx->data_end;
	struct end none = {}, e = {};
	struct address to;
	struct tcp *t;
	__u32 headers;
	if (ctx->protocol == ETH_P_IP) {
		struct ipv4 *h = data;
		t = (void *)(h + 1);
		if ((void *)(t + 1) > limit || h->proto != IPPROTO_TCP || h->version_length != 0x45)
			return none;
		mapped(&to, h->to);
		headers = sizeof(*h);
	} else {
		struct ipv6 *h = data;
		t = (void *)(h + 1);
		if ((void *)(t + 1) > limit || h->proto != IPPROTO_TCP)
			return none;
		to = h->to;
		headers = sizeof(*h);
	}
	e.port = bpf_ntohs(t->to);
	if (!(t->flags & TCP_FIN) || (e.port != PORT_DETECT && e.port != PORT_HTTP) || !is_loopback(&to))
		return none;
	e.filled = ctx->len > headers + (t->offset >> 4) * 4;
	return e;
}

static __always_inline struct closing *first_closing(struct bpf_sock *sk, __u64 now)
{
	struct closing new = { .since = now };
	return bpf_sk_storage_get(&closings, sk, &new, BPF_SK_STORAGE_GET_F_CREATE);
}

/* Reports whether a connection may still be inspected. One that has an answer is inspected no more. */
static __always_inline bool inspected(struct bpf_sock *sk, const struct bpf_tcp_sock *t, __u64 now)
{
	struct closing *c = t->bytes_received ? 0 : first_closing(sk, now);
	return c && now - c->since < INSPECTION_NS;
}

/* Reports whether the answer to a client that has ended its side is still to come, or comes. One that has sent nothing gets none,
 * and one that has closed its socket waits for none. */
static __always_inline bool awaits_answer(struct bpf_sock *sk, const struct bpf_tcp_sock *t, __u64 now)
{
	struct conn *conn = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!conn || conn->flags & CONN_CLOSED || sk->state != BPF_TCP_FIN_WAIT1 || !t->data_segs_out)
		return false;
	struct closing *c = first_closing(sk, now);
	if (!c || now - c->since >= ANSWER_NS)
		return false;
	if (c->received != t->bytes_received) {
		c->received = t->bytes_received;
		c->at = now;
	}
	return !c->at || now - c->at < QUIET_NS;
}

SEC("cgroup_skb/egress")
int hold_fin(struct __sk_buff *ctx)
{
	struct end e = ends_request(ctx);
	if (!e.port)
		return 1;
	struct bpf_sock *sk = ctx->sk ? bpf_sk_fullsock(ctx->sk) : 0;
	struct bpf_tcp_sock *t = sk ? bpf_tcp_sock(sk) : 0;
	if (!t)
		return 1;
	__u64 now = bpf_ktime_get_ns();
	/* What is inspected may be no request, and its server may wait for its end. So it is kept back no longer. */
	if (e.port == PORT_DETECT ? inspected(sk, t, now) : !e.filled && awaits_answer(sk, t, now))
		return DROP_AS_LOST;
	return 1;
}

/* Before the end of a socket that its application has closed leaves: nobody is there for an answer, and Envoy is to know. */
SEC("cgroup/sock_release")
int released(struct bpf_sock *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->verdict == VERDICT_L7)
		c->flags |= CONN_CLOSED;
	return 1;
}
