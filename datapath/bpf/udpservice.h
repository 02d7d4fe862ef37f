/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The Services of unconnected UDP sockets. */
#pragma once
#include "service.h"

/* As long as a NAT remembers a stream of datagrams (net.netfilter.nf_conntrack_udp_timeout_stream). */
#define UDP_STICKY_NS (120ULL * 1000000000)

/* The backend that the socket had of a Service last, if that is not too long ago. */
static __always_inline bool last_backend(struct udp_services *s, const struct endpoint *service, __u64 now, struct endpoint *backend)
{
	bool found = false;
	bpf_spin_lock(&s->lock);
	for (int i = 0; i < SERVICES_OF_A_SOCKET; i++) {
		struct udp_service *u = &s->all[i];
		if (equal(&u->service, service) && now - u->used <= UDP_STICKY_NS) {
			*backend = u->backend;
			found = true;
			break;
		}
	}
	bpf_spin_unlock(&s->lock);
	return found;
}

/* The Service that the socket takes datagrams of a backend for: the one that it sent to last. */
static __always_inline bool service_of(struct udp_services *s, const struct endpoint *backend, struct endpoint *service)
{
	__u64 used = 0;
	bool direct = false;
	bpf_spin_lock(&s->lock);
	for (int i = 0; i < SERVICES_OF_A_SOCKET; i++) {
		struct udp_service *u = &s->all[i];
		if (u->service.port && u->used >= used && equal(&u->backend, backend)) {
			used = u->used;
			direct = u->direct;
			*service = u->service;
		}
	}
	bpf_spin_unlock(&s->lock);
	return used && !direct;
}

/* Remembers that the socket sends to a Service. Of more than fit, the one that was used last the longest ago is forgotten. */
static __always_inline void sent_to(struct udp_services *s, const struct endpoint *service, const struct endpoint *backend, __u64 now)
{
	bpf_spin_lock(&s->lock);
	struct udp_service *u = &s->all[0];
	for (int i = 0; i < SERVICES_OF_A_SOCKET; i++) {
		struct udp_service *other = &s->all[i];
		if (equal(&other->service, service)) {
			u = other;
			break;
		}
		if (other->used < u->used)
			u = other;
	}
	u->service = *service;
	u->backend = *backend;
	u->used = now;
	u->direct = 0;
	bpf_spin_unlock(&s->lock);
}

/* Remembers that the socket sends to a backend itself: answers from there are from there. */
static __always_inline void sent_directly(struct udp_services *s, const struct endpoint *backend)
{
	bpf_spin_lock(&s->lock);
	for (int i = 0; i < SERVICES_OF_A_SOCKET; i++) {
		if (equal(&s->all[i].backend, backend))
			s->all[i].direct = 1;
	}
	bpf_spin_unlock(&s->lock);
}

/* A backend from which a socket does not expect answers as from another Service: those of both would look alike. A few are
 * tried. */
static __always_inline bool pick_apart(const struct endpoint *service, struct frontend *f, struct udp_services *s, struct endpoint *out)
{
	__u32 count = f->count;
	__u32 first = bpf_get_prandom_u32();
	for (__u32 i = 0; i < 4 && i < count; i++) {
		struct slot_key slot = { .service = f->service, .slot = (first + i) % count };
		struct endpoint *b = bpf_map_lookup_elem(&slots, &slot), other = {};
		if (!b)
			return false;
		if (!service_of(s, b, &other) || equal(&other, service)) {
			*out = *b;
			return true;
		}
	}
	return false;
}

/* The backend that the socket had last, while it serves the Service and the time has not run out; else any. */
static __always_inline bool pick_of_socket(struct udp_services *s, const struct endpoint *service, struct frontend *f, __u64 now,
					   struct endpoint *out)
{
	struct endpoint last = {};
	if (s && last_backend(s, service, now, &last)) {
		struct member_key m = { .service = f->service, .backend = last };
		if (bpf_map_lookup_elem(&members, &m)) {
			*out = last;
			return true;
		}
	}
	return (s && pick_apart(service, f, s, out)) || pick_any(service, IPPROTO_UDP, 0, f, out);
}
