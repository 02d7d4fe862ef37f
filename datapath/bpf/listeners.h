/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Sockets on which Envoy listens already when the maps are made: after that proxy_sockops sees each listen(). The program
 * is loaded and run once for each workload's namespace. It is the only one that reads kernel structures, so it needs
 * the kernel's BTF. */
#pragma once
#include "inbound.h"
#include <bpf/bpf_core_read.h>

const volatile __u64 proxy_cgroup = 0;

/* The fields that are read; CO-RE finds where they are. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_rcv_saddr;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
};

struct bpf_iter_meta {
	__u64 seq_num;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};
#pragma clang attribute pop

SEC("iter/tcp")
int find_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	if (!skc || BPF_CORE_READ(skc, skc_state) != BPF_TCP_LISTEN)
		return 0;
	__u32 port = BPF_CORE_READ(skc, skc_num);
	if (port != PORT_IN && port != PORT_HBONE)
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
