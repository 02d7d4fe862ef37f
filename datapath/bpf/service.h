/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Services: from a frontend to one of its backends. */
#pragma once
#include "address.h"

static __always_inline struct frontend *find_service(const struct endpoint *e, __u8 proto, __u8 caller)
{
	struct frontend_key key = { .addr = e->addr, .port = e->port, .proto = proto, .pad = caller };
	return bpf_map_lookup_elem(&frontends, &key);
}

/* Any backend. Between the look-ups a service may shrink: its count goes down before its slots are removed, so the
 * second try sees the new count. */
static __always_inline bool pick_any(const struct endpoint *service, __u8 proto, __u8 caller, struct frontend *f,
				     struct endpoint *out)
{
	for (int i = 0; i < 3; i++) {
		__u32 count = f->count;
		if (!count)
			return false;
		struct slot_key key = { .service = f->service, .slot = bpf_get_prandom_u32() % count };
		struct endpoint *b = bpf_map_lookup_elem(&slots, &key);
		if (b) {
			*out = *b;
			return true;
		}
		f = find_service(service, proto, caller);
		if (!f)
			return false;
	}
	return false;
}

/* The backend that this client had last, while it serves the Service and the time has not run out; else any.
 * Each use starts the time anew. */
static __always_inline bool pick_same(const struct endpoint *service, __u8 proto, __u8 caller, struct frontend *f,
				      __u64 client, __u32 seconds, struct endpoint *out)
{
	struct affinity_key key = { .client = client, .service = f->service };
	__u64 now = bpf_ktime_get_ns();
	struct affinity *a = bpf_map_lookup_elem(&affinities, &key);
	if (a && now - a->used <= (__u64)seconds * 1000000000) {
		struct member_key m = { .service = f->service, .backend = a->backend };
		if (bpf_map_lookup_elem(&members, &m)) {
			*out = a->backend;
			a->used = now;
			return true;
		}
	}
	if (!pick_any(service, proto, caller, f, out))
		return false;
	struct affinity v = { .backend = *out, .used = now };
	bpf_map_update_elem(&affinities, &key, &v, BPF_ANY);
	return true;
}
