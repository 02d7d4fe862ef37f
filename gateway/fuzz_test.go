package gateway

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/model"
)

// FuzzTranslate gives the translator whatever a manifest may hold. It must not panic, must settle, and nothing that
// Envoy would refuse or read as something else may reach the model.
func FuzzTranslate(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		if strings.Contains(strings.TrimSuffix(filepath.Base(path), ".yaml"), ".") {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := parseObjects(data)
		if err != nil {
			t.Skip()
		}
		w := newWorld(testConfig)
		for _, o := range objects {
			putIfTaken(w, o)
		}
		w.Sync()
		m := w.model()
		for _, table := range m.RouteTables {
			checkTable(t, table)
		}
		for _, g := range m.Gateways {
			for _, p := range g.Ports {
				for _, l := range p.Listeners {
					if !plain.MatchString(l.Name) || !hostText.MatchString(l.Hostname) {
						t.Errorf("listener %q with hostname %q", l.Name, l.Hostname)
					}
				}
			}
		}
		for _, wl := range m.Workloads {
			if wl.NetNS != "" && (strings.Count(wl.NetNS, "/") != 3 || strings.Contains(wl.NetNS, "..")) {
				t.Errorf("network namespace %q", wl.NetNS)
			}
			if wl.Identity != "" && strings.Count(string(wl.Identity), "/") != 6 {
				t.Errorf("identity %q", wl.Identity)
			}
			if wl.MTLS != model.MTLSDisabled && wl.Identity == "" {
				t.Errorf("workload %s has mode %s and no identity", wl.Key(), wl.MTLS)
			}
		}
		for _, s := range w.statuses() {
			for _, p := range s.Parents {
				for _, c := range p.Conditions {
					if len(c.Message) > 8192 {
						t.Errorf("a message of %d bytes", len(c.Message))
					}
				}
			}
		}
	})
}

func putIfTaken(w *world, o runtime.Object) {
	txn := w.objs.Write()
	defer txn.Abort()
	if w.objs.Put(txn, o) == nil {
		txn.Commit()
	}
}

var (
	plain    = regexp.MustCompile(`^[a-z0-9.-]+$`)
	hostText = regexp.MustCompile(`^$|^\*$|^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
)

func checkTable(t *testing.T, table *model.RouteTable) {
	t.Helper()
	seen := map[string]bool{}
	for _, vh := range table.VirtualHosts {
		for _, h := range vh.Hosts {
			if seen[h] || !hostText.MatchString(h) {
				t.Errorf("%s: host %q is there twice or is none", table.Name, h)
			}
			seen[h] = true
		}
		for _, r := range vh.Rules {
			checkRule(t, r)
		}
	}
}

func checkRule(t *testing.T, r model.Rule) {
	t.Helper()
	clean := func(what, s string) {
		if strings.ContainsAny(s, "\x00\r\n") || len(s) > maxHeaderValue {
			t.Errorf("%s of %s: %q", what, r.Route, s)
		}
	}
	m := r.Match
	clean("path", m.Path.Value)
	if m.Path.Type == model.MatchRegex {
		if _, err := regexp.Compile("^(?:" + m.Path.Value + ")$"); err != nil {
			t.Errorf("path of %s: %v", r.Route, err)
		}
	} else if m.Path.Value != "" && !strings.HasPrefix(m.Path.Value, "/") {
		t.Errorf("path of %s: %q", r.Route, m.Path.Value)
	}
	for _, v := range append(m.Headers, m.Query...) {
		clean("match", v.Name+v.Value)
	}
	changes := []model.HeaderChange{r.RequestHeaders, r.ResponseHeaders}
	weight := uint64(0)
	for _, b := range r.Backends {
		changes = append(changes, b.RequestHeaders, b.ResponseHeaders)
		clean("backend", b.Cluster())
		weight += uint64(b.Weight)
	}
	if (len(r.Backends) > 0 && weight == 0) || weight > 1<<32-1 {
		t.Errorf("weights of %s sum to %d", r.Route, weight)
	}
	if len(r.Backends) == 0 && r.Redirect == nil && r.Status == 0 {
		t.Errorf("a rule of %s does nothing", r.Route)
	}
	for _, c := range changes {
		for _, h := range append(c.Set, c.Add...) {
			clean("header", h.Name+h.Value)
		}
		for _, h := range c.Remove {
			clean("header", h)
		}
	}
}
