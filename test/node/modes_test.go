package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// drainTime is longer than Envoy serves a listener that was replaced (proxyDrainTime).
const drainTime = 3 * time.Second

// flipped changes the mode of a namespace of callers and servers under load of all kinds. Nothing fails where both modes
// permit it.
func flipped(t *testing.T, m *mesh) {
	mode := func(mode string) {
		t.Helper()
		if err := m.Write("mesh/ns-flip.yaml", []byte(namespaceManifest("flip", mode))); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { mode("disabled") })
	inside, peer, outsider := m.Pod("flip", "c"), m.Pod("perm", "c"), m.Pod("plain", "c")
	t.Run("the same port", func(t *testing.T) { samePort(t, m, mode) })
	for _, part := range []struct {
		name  string
		from  []*lab.Pod
		modes []string
	}{
		{"control", []*lab.Pod{inside, peer, outsider}, []string{"permissive"}},
		{"permissive and disabled", []*lab.Pod{inside, peer, outsider}, []string{"disabled", "permissive", "disabled", "permissive"}},
		// Who has no identity is refused by what is strict.
		{"permissive and strict", []*lab.Pod{inside, peer}, []string{"strict", "permissive", "strict", "permissive"}},
	} {
		if m.bytesPort == model.PortHBONE && !long && part.name != "permissive and disabled" {
			continue // make node-hbone
		}
		t.Run(part.name, func(t *testing.T) {
			mode("permissive")
			time.Sleep(drainTime)
			flips(t, part.from, func() {
				for _, to := range part.modes {
					mode(to)
					time.Sleep(drainTime)
				}
			})
		})
	}
}

// flips calls f while pods send requests to the namespace flip, over kept and new connections, by routes and as bytes, and
// while they read answers that do not end.
func flips(t *testing.T, from []*lab.Pod, f func()) {
	type run struct {
		name string
		load *load.Running
	}
	var runs []run
	var streams []*stream
	var answers []*endless
	for _, p := range from {
		for i, http2 := range []bool{false, true} {
			answers = append(answers, openEndless(t, p, at(serviceIPs("flip", "l7")[i], 80), http2))
		}
		for _, service := range []string{"l7", "srv"} {
			for i, fresh := range []bool{false, true} {
				r, err := load.Start(t.Context(), load.Config{
					URL: "http://" + at(serviceIPs("flip", service)[i], 80), Dial: p.Dial, NewConnections: fresh,
					Workers: 2, Rate: 25, Timeout: patience,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Stop()
				runs = append(runs, run{fmt.Sprintf("%s to %s, new connections %t", p.Name, service, fresh), r})
			}
		}
		for _, ip := range serviceIPs("flip", "srv") {
			streams = append(streams, mustOpen(t, p, at(ip, 70)))
		}
	}
	time.Sleep(200 * time.Millisecond)
	f()
	for _, a := range answers {
		if err := a.next(); err != nil {
			t.Errorf("%s: %v", a.name, err)
		}
	}
	for _, r := range runs {
		if rep := r.load.Stop(); rep.Failed > 0 || rep.Requests == 0 {
			t.Errorf("%s: %d of %d failed, within %s: %v", r.name, rep.Failed, rep.Requests, rep.Outage(), rep.Failures())
		}
	}
	for _, s := range streams {
		if err := s.echo("still here"); err != nil {
			t.Errorf("a connection of bytes from before, %s to %s: %v", s.client, s.RemoteAddr(), err)
		}
	}
}
