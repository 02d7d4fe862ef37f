package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"
)

// externalIPsFlag adds the flag of agent and controller, which must both know it: one takes the traffic, the other says what is
// wrong with a Service.
func externalIPsFlag(f *pflag.FlagSet, texts *[]string) {
	f.StringSliceVar(texts, "external-ips", nil, "ranges (CIDR) in which Services may have addresses by spec.externalIPs; those of nodes, pods, other Services and Gateways are never taken (default: none)")
}

// parseRanges reads the flag.
func parseRanges(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--external-ips: %w", err)
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("--external-ips: %s is an IPv4 range in the form of IPv6; write it as IPv4", text)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
