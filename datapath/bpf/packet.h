/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Headers of packets. */
#pragma once
#include "address.h"

#define ETH_P_IP bpf_htons(0x0800)
#define IP_FRAGMENT bpf_htons(0x3fff) /* more fragments, or the offset of one */

struct ipv4 {
	__u8 version_length;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 check;
	__be32 from;
	__be32 to;
};

struct ipv6 {
	__be32 version;
	__be16 length;
	__u8 proto;
	__u8 hops;
	struct address from;
	struct address to;
};

struct udp {
	__be16 from;
	__be16 to;
	__be16 length;
	__be16 check;
};

struct tcp {
	__be16 from;
	__be16 to;
	__be32 seq;
	__be32 ack;
	__u8 offset; /* of the payload, in 4 bytes: the upper half */
	__u8 flags;
};

#define TCP_FIN 1
