/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Sockets on which Envoy listens already when the maps are made: after that proxy_sockops sees each listen(). The program
 * is loaded and run once for each workload's namespace. */
#pragma once
#include "inbound.h"
#include "kernel.h"

const volatile __u64 proxy_cgroup = 0;

SEC("iter/tcp")
int find_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	if (!skc || BPF_CORE_READ(skc, skc_state) != BPF_TCP_LISTEN)
		return 0;
	__u32 port = BPF_CORE_READ(skc, skc_num);
	if (port != PORT_IN && port != PORT_HBONE && port != PORT_TUNNEL)
		return 0;
	struct sock *sk = (struct sock *)skc;
	if (BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id) != proxy_cgroup)
		return 0;
	struct listener_key key = { .netns = own_netns, .port = port };
	if (BPF_CORE_READ(skc, skc_family) == AF_INET)
		mapped(&key.addr, BPF_CORE_READ(skc, skc_rcv_saddr));
	else
		BPF_CORE_READ_INTO(&key.addr, skc, skc_v6_rcv_saddr);
	bpf_map_update_elem(&listeners, &key, skc, BPF_NOEXIST);
	key.latest = 1;
	bpf_map_update_elem(&listeners, &key, skc, BPF_ANY);
	return 0;
}
