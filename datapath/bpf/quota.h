/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How often something may happen in a second that somebody outside can bring about. */
#pragma once
#include "address.h"

/* Events of connections that one address is refused at a workload, or that are refused to a workload. */
#define QUOTA_REFUSED 32
/* Messages of DNS that a workload sends, and that it gets; its new exchanges by UDP, that it begins and that others begin. */
#define QUOTA_DNS_MESSAGES 2000
#define QUOTA_NEW_EXCHANGES 200

/* Kinds beside those whose number is their bound, and what is added to these two. */
enum { QUOTA_DNS = 1, QUOTA_EXCHANGES = 2, QUOTA_INBOUND = 2, QUOTA_OF_PEER = 4 };

struct quota_key {
	__u64 netns;
	struct address from; /* zero for all together */
	__u32 kind;
	__u32 pad;
};

struct quota {
	__u64 second; /* of CLOCK_MONOTONIC, since which is counted */
	__u64 used;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct quota_key);
	__type(value, struct quota);
} quotas SEC(".maps");

/* Reports whether one more is within its bound. At the first of a second more is how many were not, of the last second in which there
 * were any. Two processors that begin the same second at once may both count from 0: a few more pass. */
static __always_inline bool within_telling(const struct quota_key *key, __u32 most, __u32 *more)
{
	*more = 0;
	__u64 second = bpf_ktime_get_ns() / 1000000000;
	struct quota *q = bpf_map_lookup_elem(&quotas, key);
	if (!q) {
		struct quota first = { .second = second, .used = 1 };
		bpf_map_update_elem(&quotas, key, &first, BPF_ANY);
		return true;
	}
	if (q->second != second) {
		if (q->used > most)
			*more = q->used - most;
		q->second = second;
		q->used = 1;
		return true;
	}
	return __sync_fetch_and_add(&q->used, 1) < most;
}

static __always_inline bool within(const struct quota_key *key, __u32 most)
{
	__u32 more;
	return within_telling(key, most, &more);
}
