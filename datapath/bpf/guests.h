/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Connections to the mesh's ports of a workload from where no peer is known to be. Envoy and weft tunnel wait some seconds for a
 * certificate: those who have none must not keep others waiting, nor use up what nodes have, whose Gateways come to these ports.
 *
 * They are counted when the TCP handshake is finished. A SYN can have any address for its source, and would use up another's rate. */
#pragma once
#include "event.h"

/* Connections a second to one workload. As many may come at once. The numbers differ, because they tell the counters apart. A handshake
 * may take 10 s, and a listener has 10,000 connections: guests leave 1,000 of them to peers. */
enum {
	GUESTS_OF_ADDRESS = 40, /* of one address of which nothing is known, such as that of a peer that this node has not heard of yet */
	GUESTS_UNKNOWN = 100,   /* of all these together */
	GUESTS_OF_NODE = 60,    /* of another node: its Gateways and processes, and whoever comes by its NodePorts */
	GUESTS_OF_NODES = 300,  /* of all other nodes together */
	GUESTS_OF_HOST = 500,   /* of this node */
};

struct guest {
	__u64 netns;
	struct address from; /* zero for all together; of a node its number alone */
	__u32 rate;
	__u32 pad;
};

/* The time up to which a rate is used, in ns of CLOCK_MONOTONIC. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct guest);
	__type(value, __u64);
} guests SEC(".maps");

#define SECOND 1000000000ull

/* Moves the time up to which a rate is used. */
static __always_inline void charge(void *map, const void *key, __u64 cost)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 *until = bpf_map_lookup_elem(map, key);
	if (!until) {
		__u64 first = now + cost;
		bpf_map_update_elem(map, key, &first, BPF_ANY);
	} else if (*until < now) {
		*until = now + cost;
	} else {
		__sync_fetch_and_add(until, cost);
	}
}

/* Tells by which counters a connection is judged: its own, whose rate is 0 if there is none, and that of all of its kind. False: by none. */
static __always_inline bool is_guest(struct guest *one, struct guest *all, __u64 netns, const struct address *to, __u32 port, const struct address *from)
{
	if ((port != PORT_HBONE && port != PORT_TUNNEL) || !bpf_map_lookup_elem(&pods, &netns))
		return false;
	struct own_key self = { .netns = netns, .addr = *from };
	if (is_loopback(from) || same(to, from) || bpf_map_lookup_elem(&own, &self))
		return false;
	__u32 *peer = bpf_map_lookup_elem(&peers, from);
	if (peer && !(*peer & ADDRESS_CONTESTED))
		return false;
	one->netns = all->netns = netns;
	if (bpf_map_lookup_elem(&nodes, from)) {
		all->rate = GUESTS_OF_HOST;
		return true;
	}
	__u32 *node = bpf_map_lookup_elem(&other_nodes, from);
	one->rate = node ? GUESTS_OF_NODE : GUESTS_OF_ADDRESS;
	all->rate = node ? GUESTS_OF_NODES : GUESTS_UNKNOWN;
	if (node && *node)
		one->from.ip[3] = *node;
	else
		one->from = *from;
	return true;
}

static __always_inline bool used_up(const struct guest *g)
{
	__u64 *until = bpf_map_lookup_elem(&guests, g);
	return until && *until > bpf_ktime_get_ns() + SECOND - SECOND / g->rate;
}

/* Reports whether a connection has to wait. */
static __always_inline bool guest_waits(__u64 netns, const struct address *to, __u32 port, const struct address *from)
{
	struct guest one = {}, all = {};
	if (!is_guest(&one, &all, netns, to, port, from))
		return false;
	return used_up(&all) || (one.rate && used_up(&one));
}

static __always_inline void guest_arrived(__u64 netns, const struct address *to, __u32 port, const struct address *from)
{
	struct guest one = {}, all = {};
	if (!is_guest(&one, &all, netns, to, port, from))
		return;
	charge(&guests, &all, SECOND / all.rate);
	if (one.rate)
		charge(&guests, &one, SECOND / one.rate);
}
