package xds

import (
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// The only caller with an identity on a node loses it and gets it again, under load on kept and on new connections. Each
// mode lasts longer than Envoy serves the listener of the mode before.
func TestModeOfTheOnlyCallerChanges(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	caller := func(mode model.MTLSMode) { put(w, w.st.Workloads, workload(pods[0], "shop", mode, nil)) }
	caller(model.MTLSPermissive)
	b := workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.SVIDs, w.ca.svid(identity("shop", "a")))
	echo(t, pods[1], 8080, "b")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	run := func(name string, change func()) {
		t.Run(name, func(t *testing.T) {
			var running []*load.Running
			for _, fresh := range []bool{false, true} {
				r, err := load.Start(t.Context(), load.Config{
					URL: "http://127.0.0.1:15001", Dial: pods[0].Dial, Workers: 4, Rate: 200, NewConnections: fresh, Timeout: 10 * time.Second,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Stop()
				running = append(running, r)
			}
			change()
			for i, r := range running {
				if rep := r.Stop(); rep.Failed > 0 || rep.Requests == 0 {
					t.Errorf("new connections %t: %d of %d failed: %v", i == 1, rep.Failed, rep.Requests, rep.Failures())
				}
			}
		})
	}
	run("control", func() { time.Sleep(2 * time.Second) })
	run("changes", func() {
		for _, mode := range []model.MTLSMode{model.MTLSDisabled, model.MTLSPermissive, model.MTLSDisabled, model.MTLSPermissive} {
			caller(mode)
			time.Sleep(2 * time.Second)
		}
	})
	w.noRejections()
}
