package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

// TestRefused: flows of nodes that are there, that come and that come back, and none that the filter does not take.
func TestRefused(t *testing.T) {
	c := newCluster(t, Times{})
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan string), make(chan struct{})
	go func() {
		defer close(done)
		c.server.cfg.Nodes.Refused(ctx, func(node string, f *observe.Flow) {
			select {
			case heard <- fmt.Sprint(node, " ", f.Verdict):
			case <-ctx.Done():
			}
		})
	}()
	defer func() {
		cancel()
		<-done
	}()
	// refuse makes flows of an agent until one is heard of: the node is asked a moment after it is connected.
	refuse := func(node string, a *agent) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			a.flows.Add(flow(1, "store/web-1", 200))
			a.flows.Add(refused(2))
			select {
			case got := <-heard:
				if got == node+" refused" {
					return
				}
				if got == node+" forwarded" {
					t.Fatal("the filter is not applied")
				}
			case <-time.After(10 * time.Millisecond):
			case <-deadline:
				t.Fatal("no refused flow is heard of node ", node)
			}
		}
	}
	a := c.agent("a")
	refuse("a", a)
	b := c.agent("b")
	refuse("b", b)
	refuse("a", a)
	b.stop()
	c.await("b is gone", func() bool { return len(c.server.cfg.Nodes.missing()) == 1 })
	refuse("b", c.agent("b"))
}
