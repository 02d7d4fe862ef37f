// Gen writes the constants that Go and the eBPF programs share as a C header to standard output.
package main

import (
	"fmt"

	"github.com/weft-mesh/weft/internal/model"
)

func main() {
	fmt.Print(`/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Generated from internal/model/ports.go by datapath/bpf/gen. DO NOT EDIT. */
#pragma once

`)
	for _, c := range []struct {
		name  string
		value int
	}{
		{"PORT_HTTP", model.PortHTTP},
		{"PORT_TCP", model.PortTCP},
		{"PORT_TUNNEL_OUT", model.PortTunnelOut},
		{"PORT_DETECT", model.PortDetect},
		{"PORT_SNI", model.PortSNI},
		{"PORT_IN", model.PortInbound},
		{"PORT_HBONE", model.PortHBONE},
		{"PORT_TUNNEL", model.PortTunnel},
		{"MARK_BYTES", model.BytesMark},
	} {
		fmt.Printf("#define %s %d\n", c.name, c.value)
	}
}
