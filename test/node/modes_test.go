package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

// drainTime is longer than Envoy serves what a change has replaced (weft proxy --drain-time).
const drainTime = 7 * time.Second

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
	t.Run("control", func(t *testing.T) {
		mode("permissive")
		time.Sleep(drainTime)
		flips(t, []*lab.Pod{inside, peer, outsider}, func() { time.Sleep(drainTime) })
	})
	t.Run("permissive and disabled", func(t *testing.T) {
		flips(t, []*lab.Pod{inside, peer, outsider}, func() {
			for _, to := range []string{"disabled", "permissive", "disabled", "permissive"} {
				mode(to)
				time.Sleep(drainTime)
			}
		})
	})
	// Who has no identity is refused by what is strict.
	t.Run("permissive and strict", func(t *testing.T) {
		flips(t, []*lab.Pod{inside, peer}, func() {
			for _, to := range []string{"strict", "permissive", "strict", "permissive"} {
				mode(to)
				time.Sleep(drainTime)
			}
		})
	})
}

// flips calls f while pods send requests to the namespace flip, over kept and new connections, by routes and as bytes.
func flips(t *testing.T, from []*lab.Pod, f func()) {
	type run struct {
		name string
		load *load.Running
	}
	var runs []run
	var streams []*stream
	for _, p := range from {
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
