package transparency

import (
	"flag"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

const (
	firstPort = 7000
	// atOnce cases of a path run together: most of them wait.
	atOnce = 16
)

// thisPod is what the ends call their pod if both are in the same one.
const thisPod = "this pod"

// For somebody who looks at a case. -run chooses paths; the direct one that a path is compared with must be among them.
var (
	only  = flag.String("case", "", "regular expression of the names of the cases to play")
	times = flag.Int("times", 1, "how often each path is played")
)

// TestTransparency compares every path of the mesh with a direct one.
func TestTransparency(t *testing.T) {
	testenv.Root(t)
	seen := map[string]map[string]observed{}
	used := make([]bool, len(differences))
	total := map[string]bool{} // all paths, those too that -run leaves out
	run := func(n *sandbox.Node, all []path) func(*testing.T) {
		return func(t *testing.T) {
			for _, p := range all {
				total[p.name] = true
				if p.like == "" && seen[p.name] != nil {
					continue // played on another node
				}
				for range *times {
					if !t.Run(p.name, func(t *testing.T) { p.run(t, n, seen, used) }) {
						t.Log(n.Logs())
					}
				}
			}
		}
	}
	t.Run("node", func(t *testing.T) {
		n := start(t, manifest())
		t.Run("paths", run(n, paths(t, n)))
		t.Run("nobody but Envoy speaks for a Gateway", func(t *testing.T) { strangers(t, n) })
	})
	t.Run("node by HBONE", func(t *testing.T) {
		n := start(t, podsOf(strict), "--bytes=hbone")
		t.Run("paths", run(n, hbonePaths(t, n)))
	})
	for i, d := range differences {
		if !used[i] && *only == "" && len(seen) == len(total) && !t.Failed() {
			t.Errorf("no path has this difference any more: %s", d.reason)
		}
	}
}

// run plays all cases, and compares what both ends observed with what those of a direct connection did.
func (p path) run(t *testing.T, n *sandbox.Node, seen map[string]map[string]observed, used []bool) {
	tunnelBefore, hboneBefore := sessions(t, p.server.pod)
	got, errs := p.playAll(n)
	seen[p.name] = got
	for _, c := range cases {
		o, played := got[c.name]
		if err := errs[c.name]; err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if played {
			t.Run(c.name, func(t *testing.T) {
				faults := sound(o)
				if p.like != "" {
					faults = compare(p.expected(c.name, seen[p.like][c.name], used), o)
				}
				for _, f := range faults {
					t.Error(f)
				}
			})
		}
	}
	tunnel, hbone := sessions(t, p.server.pod)
	if (p.by == byTunnel) != (tunnel > 0) && (p.by == byTunnel || tunnel > tunnelBefore) {
		t.Errorf("connections to weft tunnel were %d and are %d", tunnelBefore, tunnel)
	}
	if (p.by == byHBONE) != (hbone > 0) && (p.by == byHBONE || hbone > hboneBefore) {
		t.Errorf("connections to HBONE were %d and are %d", hboneBefore, hbone)
	}
}

// playAll holds all conversations that the path can have.
func (p path) playAll(n *sandbox.Node) (map[string]observed, map[string]error) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	out, errs := map[string]observed{}, map[string]error{}
	room, chosen := make(chan struct{}, atOnce), regexp.MustCompile(*only)
	for i, c := range cases {
		if c.needs == needsIPv4 && !p.to(i).Is4() || slices.Contains(p.without, c.name) || !chosen.MatchString(c.name) {
			continue
		}
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			got, err := converse(p.client, p.server, p.order(n, i))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[c.name] = err
			}
			out[c.name] = got
		})
	}
	wait.Wait()
	return out, errs
}

// order is that of the i-th conversation.
func (p path) order(n *sandbox.Node, i int) order {
	called := map[netip.Addr]string{n.Lab.Gateway: "the node", n.Lab.Gateway6: "the node"}
	for _, pod := range []*lab.Pod{p.client.pod, p.server.pod} {
		name := "the client"
		switch {
		case p.client.pod == p.server.pod:
			name = thisPod
		case pod == p.server.pod:
			name = "the server"
		}
		called[pod.Address], called[pod.Address6] = name, name
	}
	port := uint16(firstPort + i)
	return order{
		Path: p.name, Case: cases[i].name, To: netip.AddrPortFrom(p.to(i), port), Server: port, Names: called, Prelude: p.prelude,
	}
}

// sessions counts the connections of others to the port of weft tunnel and to that of HBONE in a pod.
func sessions(t *testing.T, pod *lab.Pod) (tunnel, hbone int) {
	t.Helper()
	err := pod.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range all {
				switch s.ID.SourcePort {
				case model.PortTunnel:
					tunnel += established(s)
				case model.PortHBONE:
					hbone += established(s)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tunnel, hbone
}

func established(s *netlink.Socket) int {
	if s.ID.DestinationPort == 0 {
		return 0 // it listens
	}
	return 1
}

// compare says what differs from the first of what may be observed, if none of it is.
func compare(want []observed, got observed) (faults []string) {
	for _, w := range want {
		if slices.Equal(w.Client, got.Client) && slices.Equal(w.Server, got.Server) {
			return nil
		}
	}
	for _, side := range []struct {
		who       string
		want, got []string
	}{{client, want[0].Client, got.Client}, {server, want[0].Server, got.Server}} {
		if !slices.Equal(side.want, side.got) {
			faults = append(faults, "the "+side.who+" observed:\n\t"+strings.Join(side.got, "\n\t")+"\nwant:\n\t"+strings.Join(side.want, "\n\t"))
		}
	}
	return faults
}

// sound says what is wrong with what ends observed, whatever a path may do to connections.
func sound(o observed) (faults []string) {
	for _, s := range slices.Concat(o.Client, o.Server) {
		if strings.Contains(s, "timeout") || strings.Contains(s, ", but ") {
			faults = append(faults, s)
		}
	}
	return faults
}

// start starts a node. One ends before the next one starts, because their hooks would see each other's connections.
func start(t *testing.T, manifest string, args ...string) *sandbox.Node {
	t.Helper()
	n, err := sandbox.New(sandbox.Options{
		Name: "wclear", Subnet: netip.MustParsePrefix("10.86.0.0/24"), ServiceSubnet: netip.MustParsePrefix("10.98.0.0/24"),
		Binary: testenv.Weft(t), Envoy: testenv.Envoy(t), AgentArgs: append(args, "--log-level=debug"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Apply(t.Context(), fstest.MapFS{"clear/all.yaml": {Data: []byte(manifest)}}, "clear"); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}
