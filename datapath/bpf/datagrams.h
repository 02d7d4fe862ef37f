/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* UDP sockets that connect() led to a Service's backend. The kernel calls no program when such a socket sends, so it keeps
 * its backend until it is ended. The program is run over the UDP sockets of a network namespace. */
#pragma once
#include "kernel.h"

struct datagram {
	__u64 socket;
	struct endpoint service;
	struct endpoint backend;
	struct endpoint local;
	__u32 device; /* that it is bound to; 0: none */
	__u16 family;
	__u16 pad[3];
};

const volatile struct datagram *const datagram_type = 0; /* so that the layout is in the object */

SEC("iter/udp")
int find_datagrams(struct bpf_iter__udp *ctx)
{
	struct sock *sk = (struct sock *)ctx->udp_sk;
	if (!sk || BPF_CORE_READ(sk, __sk_common.skc_state) != BPF_TCP_ESTABLISHED)
		return 0;
	struct conn *c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!c || !c->original.port)
		return 0;
	struct datagram d = {
		.service = c->original,
		.device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if),
		.family = BPF_CORE_READ(sk, __sk_common.skc_family),
	};
	if (d.family == AF_INET) {
		mapped(&d.backend.addr, BPF_CORE_READ(sk, __sk_common.skc_daddr));
		mapped(&d.local.addr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	} else {
		BPF_CORE_READ_INTO(&d.backend.addr, sk, __sk_common.skc_v6_daddr);
		BPF_CORE_READ_INTO(&d.local.addr, sk, __sk_common.skc_v6_rcv_saddr);
	}
	d.backend.port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	d.local.port = bpf_htons(BPF_CORE_READ(sk, __sk_common.skc_num));
	if (!equal(&d.backend, &c->dest))
		return 0; /* a later connect() failed: the peer is not the one that is remembered */
	d.socket = bpf_get_socket_cookie(sk);
	bpf_seq_write(ctx->meta->seq, &d, sizeof(d));
	return 0;
}
