/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Generated from internal/model/ports.go by datapath/bpf/gen. DO NOT EDIT. */
#pragma once

#define PORT_HTTP 15001
#define PORT_TCP 15002
#define PORT_TUNNEL_OUT 15003
#define PORT_DETECT 15004
#define PORT_SNI 15005
#define PORT_IN 15006
#define PORT_HBONE 15008
#define PORT_TUNNEL 15009
#define MARK_BYTES 1338
