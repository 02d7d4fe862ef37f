package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// observed: what operators see of the traffic and of the node.
func observed(t *testing.T, m *mesh) {
	t.Run("identities and reasons", func(t *testing.T) { flows(t, m) })
	t.Run("a line for both ends", func(t *testing.T) { oneLine(t, m) })
	t.Run("export", func(t *testing.T) { exportedFlows(t, m) })
	t.Run("metrics", func(t *testing.T) { trafficMetrics(t, m) })
	t.Run("weft proxy-config", func(t *testing.T) { inspected(t, m) })
	t.Run("weft describe", func(t *testing.T) { describesAll(t, m) })
	t.Run("weft status", func(t *testing.T) {
		until(t, "the node is healthy", func() error {
			if out, code := m.weft(t, "status"); code != 0 {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		})
		m.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: broken, namespace: plain}\nspec: {ports: [{port: 99999}]}\n")
		until(t, "a bad manifest is reported and the node stays healthy", func() error {
			if out, code := m.weft(t, "status"); code != 0 || !strings.Contains(out, "Service/plain/broken") {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		})
	})
}

// exportedFlows: what a policy refuses is in the file that the agent exports to, and nothing that is not refused.
func exportedFlows(t *testing.T, m *mesh) {
	bob, srv := m.Pod("strict", "bob"), m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice))
	until(t, "a refused flow in "+m.exported, func() error {
		if err := refused(bob, at(srv.Address, 7070)); err != nil {
			return err
		}
		text, err := os.ReadFile(m.exported)
		if err != nil {
			return err
		}
		found := false
		for l := range strings.Lines(string(text)) {
			var e struct {
				Node string
				Flow observe.Flow
			}
			if !strings.HasSuffix(l, "\n") {
				break // it is on its way
			}
			if err := json.Unmarshal([]byte(l), &e); err != nil || e.Node == "" || e.Flow.Verdict != observe.Refused {
				t.Fatalf("line %q: %v", l, err)
			}
			found = found || e.Flow.Source.Workload == "strict/bob" && slices.Equal(e.Flow.Policies, []string{"guard/srv"})
		}
		if !found {
			return errors.New("it is not there")
		}
		return nil
	})
	if out, code := m.weft(t, "status"); code != 0 || !strings.Contains(out, "flows to file "+m.exported) {
		t.Errorf("exit %d: %s", code, out)
	}
}

func flows(t *testing.T, m *mesh) {
	alice, bob, plain, srv := m.Pod("strict", "alice"), m.Pod("strict", "bob"), m.Pod("plain", "c"), m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice))
	until(t, "the policy", func() error { return refused(bob, at(srv.Address, 7070)) })
	const aliceID, bobID, srvID = "spiffe://cluster.local/ns/strict/sa/alice", "spiffe://cluster.local/ns/strict/sa/bob", "spiffe://cluster.local/ns/guard/sa/srv"
	since := time.Now()
	s := mustOpen(t, alice, at(srv.Address6, 7070))
	_ = s.Close()
	for _, err := range []error{refused(bob, at(srv.Address, 7070)), refused(plain, at(m.Pod("strict", "srv").Address, 7070)),
		want(plain, at(serviceIPs("plain", "l4")[0], 80), request{path: "/"}, 200, ""),
		want(alice, at(serviceIPs("strict", "l7")[0], 80), request{path: "/observed?secret"}, 200, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.apply(t, policy(fromAlice+"      http: [{methods: [GET], paths: [{type: PathPrefix, value: /a}]}]\n"))
	guarded := at(serviceIPs("guard", "l7")[0], 80)
	until(t, "the policy looks at requests", func() error { return want(alice, guarded, request{path: "/b"}, 403, "") })
	if err := want(alice, guarded, request{path: "/a/observed"}, 200, ""); err != nil {
		t.Fatal(err)
	}
	m.apply(t, policy(fromAlice)) // connections that come later are not read as requests
	until(t, "a connection of bytes again", func() error {
		s, err := open(alice, at(srv.Address, 7070))
		if err == nil {
			_ = s.Close()
		}
		return err
	})
	for what, match := range map[string]func(f *observe.Flow) bool{
		"both identities at the source": func(f *observe.Flow) bool {
			return f.SeenAt == observe.AtSource && f.Source.Identity == aliceID && f.Destination.Identity == srvID && f.Verdict == observe.Forwarded
		},
		"both identities at the destination": func(f *observe.Flow) bool {
			return f.SeenAt == observe.AtDestination && f.Source.Identity == aliceID && f.Destination.Workload == "guard/srv" && f.Verdict == observe.Forwarded &&
				f.AllowedBy == "AuthorizationPolicy/guard/srv/0"
		},
		"refused by the policy": func(f *observe.Flow) bool {
			return f.Source.Identity == bobID && f.Destination.Workload == "guard/srv" && f.Verdict == observe.Refused && slices.Equal(f.Policies, []string{"guard/srv"})
		},
		"refused in the clear": func(f *observe.Flow) bool {
			return f.Source.Workload == "plain/c" && f.Destination.Workload == "strict/srv" && f.Verdict == observe.Refused && f.Reason != ""
		},
		"a request": func(f *observe.Flow) bool {
			h := f.HTTP
			return h != nil && f.SeenAt == observe.AtSource && f.Source.Workload == "strict/alice" && f.Layer == observe.L7 && h.Method == "GET" && h.Path == "/observed" && h.Status == 200 &&
				f.Source.Identity == aliceID && f.Destination.Identity == "spiffe://cluster.local/ns/strict/sa/srv" && h.Backend == "strict/srv"
		},
		"a request that a policy looks at": func(f *observe.Flow) bool {
			h := f.HTTP
			return h != nil && f.SeenAt == observe.AtDestination && f.Destination.Workload == "guard/srv" && f.Layer == observe.L7 && h.Path == "/a/observed" &&
				f.Source.Identity == aliceID && f.Destination.Identity == srvID && f.AllowedBy == "AuthorizationPolicy/guard/srv/0"
		},
		"in the kernel": func(f *observe.Flow) bool {
			return f.Source.Workload == "plain/c" && f.Destination.Service == "plain/l4" && f.Layer == observe.L4 && f.Verdict == observe.Forwarded
		},
	} {
		until(t, "a flow: "+what, func() error {
			found := false
			err := m.API.Flows(t.Context(), api.FlowQuery{}, func(e observe.Event) error {
				found = found || e.Flow != nil && e.Flow.Time.After(since) && match(e.Flow)
				return nil
			})
			if err == nil && !found {
				err = fmt.Errorf("none since %s", since.Format(time.TimeOnly))
			}
			return err
		})
	}
	if out, code := m.weft(t, "observe"); code != 0 || !strings.Contains(out, "guard/srv") {
		t.Errorf("weft observe: exit %d: %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(m.RunDir, "agent.sock")); err != nil {
		t.Error(err)
	}
}

// describesAll describes a pod with a policy, and Services with and without a route.
func describesAll(t *testing.T, m *mesh) {
	m.apply(t, policy(fromAlice))
	until(t, "the policy is refusing", func() error { return refused(m.Pod("strict", "bob"), at(m.Pod("guard", "srv").Address, 7070)) })
	for args, all := range map[string][]string{
		"pod guard/srv":      {"spiffe://cluster.local/ns/guard/sa/srv", "Certificate:", "spiffe://cluster.local/ns/strict/sa/alice", "strict/bob", "no policy allows it", "Problems: none"},
		"service strict/l7":  {"80/TCP", "Envoy", "service/strict/l7/80", "strict/srv"},
		"service plain/l4":   {"80/TCP", "kernel", "Problems: none"},
		"service plain/gone": {"is not known to the node"},
	} {
		out, _ := m.weft(t, append([]string{"describe"}, strings.Fields(args)...)...)
		for _, want := range all {
			if !strings.Contains(out, want) {
				t.Errorf("weft describe %s: no %q in\n%s", args, want, out)
			}
		}
	}
}

// oneLine: weft observe shows a connection that both ends report as one line, whichever way it goes, and both lines if asked to.
func oneLine(t *testing.T, m *mesh) {
	alice, plain, srv := m.Pod("strict", "alice"), m.Pod("plain", "c"), m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice))
	for name, c := range map[string]struct {
		from     *lab.Pod
		name     string
		to       string
		seen     string   // as which the lines name it
		both     []string // on the line of both ends, with -o wide
		reported int      // by each end
	}{
		"authenticated": {alice, "strict/alice", at(srv.Address, 7070), "guard/srv:7070", []string{
			"mTLS", "strict/alice:", "-> guard/srv:7070", "seen at both ends", "from spiffe://cluster.local/ns/strict/sa/alice", "to spiffe://cluster.local/ns/guard/sa/srv",
		}, 2},
		"in the kernel": {plain, "plain/c", at(serviceIPs("plain", "l4")[0], 80), "plain/", []string{
			"L4", "plain/c:", "(plain/l4)", "seen at both ends",
		}, 1},
	} {
		var conn net.Conn
		until(t, "a connection, "+name, func() (err error) {
			conn, err = c.from.Dial(t.Context(), "tcp", c.to)
			return err
		})
		port := netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
		_ = conn.Close()
		lines := func(args ...string) (out []string) {
			text, _ := m.weft(t, append([]string{"observe", "--last", "0", "-o", "wide", "--from", c.name}, args...)...)
			for l := range strings.Lines(text) {
				if strings.Contains(l, fmt.Sprintf(":%d -> %s", port, c.seen)) { // other connections may have the same port
					out = append(out, l)
				}
			}
			return out
		}
		each := 2 * c.reported
		if m.bytesPort == model.PortHBONE && name == "authenticated" {
			each = c.reported // the destination names the port of a TLS connection that others share
		}
		until(t, "the ends report "+name, func() error {
			if l := lines("--both-ends"); len(l) != each {
				return fmt.Errorf("%d lines, want %d:\n%s", len(l), each, strings.Join(l, ""))
			}
			return nil
		})
		until(t, "a line for both ends, "+name, func() error {
			got := lines()
			if len(got) != c.reported {
				return fmt.Errorf("%d lines, want %d:\n%s", len(got), c.reported, strings.Join(got, ""))
			}
			for _, l := range got {
				for _, want := range c.both {
					if !strings.Contains(l, want) {
						return fmt.Errorf("no %q in %s", want, l)
					}
				}
			}
			return nil
		})
	}
}
