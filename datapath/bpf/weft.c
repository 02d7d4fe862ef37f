/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The node's programs. Each header holds one idea; this file only puts them together.
 *
 * All but listeners.h and datagrams.h use the stable contexts of linux/bpf.h alone, so one object fits every kernel that has the hooks.
 */
#include <stdbool.h>
#include "maps.h"
#include "address.h"
#include "event.h"
#include "service.h"
#include "probe.h"
#include "outbound.h"
#include "sockops.h"
#include "admission.h"
#include "proxy.h"
#include "inbound.h"
#include "listeners.h"
#include "datagrams.h"
#include "udp.h"
#include "closing.h"

/* The helpers that are used are reserved to programs under the GPL; the rest of the project is Apache-2.0. */
char _license[] SEC("license") = "Dual BSD/GPL";
