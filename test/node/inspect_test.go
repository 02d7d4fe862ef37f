package node

import (
	"strings"
	"testing"
)

// inspected: what Envoy has is shown, as rows and as it is, and without keys.
func inspected(t *testing.T, m *mesh) {
	srv := m.Pod("strict", "srv")
	// What nobody called is not there.
	if err := want(m.Pod("strict", "alice"), at(serviceIPs("strict", "l7")[0], 80), request{path: "/"}, 200, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		want []string
	}{
		{"listeners strict/srv/", []string{"strict/srv/hbone", srv.Address.String(), "active"}},
		{"listeners --pod strict/srv -o yaml", []string{"name: strict/srv/hbone", "filter_chains"}},
		{"routes service/strict/l7/", []string{"service/strict/l7/80", "/*"}},
		{"clusters -o wide", []string{"EDS", "TLS", "by endpoint", "active", "xds"}},
		{"endpoints", []string{"HEALTHY", srv.Address.String() + ":8080"}},
		{"secrets -o wide", []string{"spiffe://cluster.local/ns/strict/sa/srv", "certificate", "validation"}},
		{"dump", []string{"envoy.admin.v3.ListenersConfigDump", "strict/srv/hbone"}},
		{"log-level http=debug", []string{"http", "debug"}},
		{"log-level", []string{"debug"}},
		{"log-level warning", []string{"warning"}},
	} {
		out, code := m.weft(t, append([]string{"proxy-config"}, strings.Fields(c.args)...)...)
		for _, part := range c.want {
			if code != 0 || !strings.Contains(out, part) {
				t.Errorf("weft proxy-config %s: exit %d, want %q in\n%.3000s", c.args, code, part, out)
			}
		}
		if strings.Contains(out, "PRIVATE KEY") {
			t.Errorf("weft proxy-config %s prints a private key", c.args)
		}
	}
	for args, reason := range map[string]string{
		"log-level loud":       `no log level "loud"`,
		"log-level nobody=off": `no logger "nobody"`,
		"log-level =debug":     "neither LEVEL nor LOGGER=LEVEL",
		"listeners --pod srv":  "not of the form NAMESPACE/NAME",
	} {
		if out, code := m.weft(t, append([]string{"proxy-config"}, strings.Fields(args)...)...); code == 0 || !strings.Contains(out, reason) {
			t.Errorf("weft proxy-config %s: exit %d, want %q in %s", args, code, reason, out)
		}
	}
	if out, _ := m.weft(t, "proxy-config", "log-level"); strings.Contains(out, "debug") {
		t.Errorf("a logger is still at debug:\n%s", out)
	}
}
