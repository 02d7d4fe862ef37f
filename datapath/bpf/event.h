/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is told to user space. */
#pragma once
#include "quota.h"

enum { VERDICT_KERNEL = 1, VERDICT_L7 = 2, VERDICT_MTLS = 3, VERDICT_REFUSED = 4 };
enum { REASON_NONE, REASON_NO_BACKEND, REASON_NO_PROXY, REASON_PLAINTEXT, REASON_NO_POLICY_PORT, REASON_NOT_PROGRAMMED,
       REASON_CONTESTED, REASON_STRANGERS, REASON_UNDECLARED, REASON_RATE };
enum { EVENT_OPENED = 1, EVENT_CLOSED = 2, EVENT_REFUSED = 3 };

struct event {
	__u64 netns;
	__u64 time; /* ns of CLOCK_MONOTONIC */
	__u64 sent;
	__u64 received;
	struct endpoint local;
	struct endpoint remote;
	struct endpoint original;
	struct endpoint backend;
	__u32 rtt; /* microseconds */
	__u32 retransmits;
	__u8 kind;
	__u8 verdict;
	__u8 reason;
	__u8 inbound;
	__u32 more; /* refusals of the same address at the same workload that were not told since the last one that was */
};

const volatile struct event *const event_type = 0; /* so that the layout is in the object */

#define RING_SIZE (1 << 20)

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_SIZE);
} events SEC(".maps");

/* Events that were not made: the ring had no room, or they were refusals beyond their bound. Messages of DNS that were not
 * told, and datagrams of exchanges that are not counted. And packets that open connections, of sources over their rate. */
enum { LOST_RING, LOST_REFUSALS, LOST_DNS, LOST_EXCHANGES, LOST_CONNECTIONS, LOST_KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOST_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

static __always_inline void count_lost(__u32 kind)
{
	__u64 *n = bpf_map_lookup_elem(&lost, &kind);
	if (n)
		*n += 1;
}

static __always_inline struct event *new_event(void)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count_lost(LOST_RING);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	return e;
}

/* An event of a connection that is refused. It costs the peer one packet, so these are bounded: by address, and all of them
 * to half of the ring, so that the events of other connections have room. */
static __always_inline struct event *new_refusal(__u64 netns, const struct address *from)
{
	struct quota_key key = { .netns = netns, .from = *from, .kind = QUOTA_REFUSED };
	__u32 more;
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_SIZE / 2 || !within_telling(&key, QUOTA_REFUSED, &more)) {
		count_lost(LOST_REFUSALS);
		return 0;
	}
	struct event *e = new_event();
	if (e) {
		e->netns = netns;
		e->kind = EVENT_REFUSED;
		e->verdict = VERDICT_REFUSED;
		e->more = more;
	}
	return e;
}

/* Which readers of rings sleep, until the next record. */
enum { READS_EVENTS, READS_DNS, READERS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, READERS);
	__type(key, __u32);
	__type(value, __u32);
} sleeping SEC(".maps");

/* How a record is submitted. A reader that does not sleep looks every now and then, and is woken only when its ring fills up: a
 * wake-up for each connection would cost more than the event. */
static __always_inline __u64 waking(void *ring, __u32 size, __u32 reader)
{
	__u32 *sleeps = bpf_map_lookup_elem(&sleeping, &reader);
	if (sleeps && *sleeps) {
		*sleeps = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	return bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > size / 4 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void submit(struct event *e)
{
	bpf_ringbuf_submit(e, waking(&events, RING_SIZE, READS_EVENTS));
}
