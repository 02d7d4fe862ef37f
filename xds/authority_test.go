package xds

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// FuzzConnectAuthority asks whereto the CONNECTs of a peer lead: to the workload's own addresses and to no port of
// Envoy's, whatever the authority, the policy's ports and the addresses' families.
func FuzzConnectAuthority(f *testing.F) {
	for _, s := range []string{
		"10.0.0.1:80", "10.0.0.1:15008", "10.0.0.1:015001", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:99999", "10.0.0.1:080",
		"10.0.0.2:80", "10a0b0c1:80", "10.0.0.1:80:80", "10.0.0.1", "10.0.0.1:", ":80", "127.0.0.1:80", "localhost:80", "[::1]:80",
		"[fd00::1]:80", "fd00::1:80", "[fd00:0::1]:80", "[FD00::1]:80", "[fd00::1%25lo]:80", "[::ffff:10.0.0.1]:80", "[fd00::1]:15001",
		"user@10.0.0.1:80", "10.0.0.1:80/", "10.0.0.1:80\n", "10.0.0.1:80\x00", "10.0.0.1:80 127.0.0.1:80", "https://10.0.0.1:80", "169.254.169.254:80",
	} {
		f.Add(s, uint16(80))
	}
	for _, p := range []uint16{15001, 15002, 15003, 15004, 15005, 15006, 15008, 15009} {
		f.Add(fmt.Sprintf("10.0.0.1:%d", p), p)
		f.Add(fmt.Sprintf("[fd00::1]:%d", p), uint16(80))
	}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	f.Fuzz(func(t *testing.T, authority string, port uint16) {
		rules := func(ports ...uint16) *model.Policy {
			return &model.Policy{Rules: []model.PolicyRule{{Ports: ports, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}, {Ports: []uint16{9}}}}
		}
		for _, addrs := range [][]netip.Addr{{v4}, {v6}, {v4, v6}} {
			for _, policy := range []*model.Policy{nil, {}, rules(), rules(max(port, 1))} {
				w := &model.Workload{
					Namespace: "ns", Name: "pod", Local: true, NetNS: "/run/netns/pod", Identity: "spiffe://td/ns/ns/sa/pod", Addresses: addrs, Policy: policy,
				}
				cluster := connectedTo(t, w, authority)
				if cluster == "" {
					continue
				}
				host, number, _ := strings.Cut(strings.TrimPrefix(authority, "["), ":")
				if strings.HasPrefix(authority, "[") {
					host, number, _ = strings.Cut(strings.TrimPrefix(authority, "["), "]:")
				}
				if a, err := netip.ParseAddr(host); err != nil || !slices.Contains(addrs, a) || a.String() != host {
					t.Errorf("%q leads to %s of a workload at %v", authority, cluster, addrs)
				}
				n, ok := parsePort(number)
				if !ok && !regexp.MustCompile(`^[6-9][0-9]{4}$`).MatchString(number) { // no port: Envoy finds no destination
					t.Errorf("%q leads to %s", authority, cluster)
				}
				if model.IsOwnPort(n) {
					t.Errorf("%q leads to the mesh itself by %s", authority, cluster)
				}
				if ports, all := policy.RequestPorts(); (all || slices.Contains(ports, n)) != (cluster == workloadName(w, inHTTP)) {
					t.Errorf("%q, requests are looked at on %v (all: %v): leads to %s", authority, ports, all, cluster)
				}
			}
		}
	})
}

// connectedTo returns the cluster that an authority's CONNECT is routed to, as Envoy finds it: by the first route whose
// expression matches all of it. "" is none.
func connectedTo(t *testing.T, w *model.Workload, authority string) string {
	t.Helper()
	for _, host := range connectRoutes(w).VirtualHosts {
		for _, r := range host.Routes {
			if r.Match.GetConnectMatcher() == nil || len(r.Match.Headers) != 1 || r.Match.Headers[0].Name != ":authority" {
				t.Fatalf("a route that more than CONNECTs to authorities can take: %v", r)
			}
			expr := r.Match.Headers[0].GetStringMatch().GetSafeRegex().GetRegex()
			if expr == "" {
				t.Fatalf("a route for every authority: %v", r)
			}
			if regexp.MustCompile(`\A(?:` + expr + `)\z`).MatchString(authority) {
				return r.GetRoute().GetCluster()
			}
		}
	}
	return ""
}
