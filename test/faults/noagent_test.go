package faults

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestWithoutAnAgent: the next agent accounts for what happened while there was none.
func TestWithoutAnAgent(t *testing.T) {
	testenv.Root(t)
	metrics := freeAddress(t)
	n := newNode(t, "--metrics-address="+metrics)
	n.healthy(t)
	t.Run("requests that nobody answered", func(t *testing.T) { unanswered(t, n) })
	t.Run("flows of weft tunnel", func(t *testing.T) { tunnelFlowsLost(t, n, metrics) })
	if t.Failed() {
		n.tail(t)
	}
}

// unanswered sends requests to a Service whose routes Envoy has not asked for yet, while no agent runs.
func unanswered(t *testing.T, n *node) {
	if err := n.StopAgent(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	const requests = 3
	for range requests {
		if status, body, err := get(n.client, n.web, "/"); err != nil || status != 503 {
			t.Fatalf("status %d, %q, %v; want 503", status, body, err)
		}
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	n.ready(t)
	eventually(t, "weft status explains the failures", func() error {
		u := n.status(t).Proxy.Unanswered
		if u == nil || u.Requests != requests {
			return fmt.Errorf("it says %+v, want %d requests", u, requests)
		}
		return nil
	})
	eventually(t, "weft observe explains them", func() error {
		out, err := exec.Command(n.Binary, "observe", "--run", n.RunDir, "--last=0", "--verdict=failed").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "flag SI: no weft agent") {
			err = fmt.Errorf("it prints %s", out)
		}
		return err
	})
}

// tunnelFlowsLost makes more authenticated connections without an agent than weft tunnel keeps the flows of.
func tunnelFlowsLost(t *testing.T, n *node, metrics string) {
	to := netip.AddrPortFrom(n.janitor.Address, 9998).String()
	l, err := n.janitor.Listen("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echoAll(l)
	eventually(t, "weft tunnel carries a connection", func() error { return exchange(t, n.teller, to) })
	if err := n.StopAgent(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	const connections = 2500 // with an opening and an end at both ends each; 8,192 flows are kept
	for range connections {
		if err := exchange(t, n.teller, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	n.ready(t)
	var lost uint64
	eventually(t, "weft status counts the losses", func() error {
		st := n.status(t)
		if lost = lostBy(st, model.LostTunnel); lost == 0 {
			return fmt.Errorf("lost are %v", st.Lost)
		}
		return nil
	})
	if lost < 4*connections-8192 || lost > 4*connections {
		t.Errorf("%d flows are counted as lost of %d", lost, 4*connections)
	}
	eventually(t, "the metric counts them", func() error {
		if v := metric(t, metrics, `weft_lost_events_total{source="weft-tunnel"}`); v != fmt.Sprint(lost) {
			return fmt.Errorf("it is %s, want %d", v, lost)
		}
		return nil
	})
	var gap uint64
	if err := n.API.Flows(t.Context(), api.FlowQuery{}, func(e observe.Event) error { gap += e.Lost; return nil }); err != nil {
		t.Fatal(err)
	}
	if gap < lost {
		t.Errorf("weft observe has gaps of %d flows, want %d or more", gap, lost)
	}
	out, err := exec.Command(n.Binary, "observe", "--run", n.RunDir, "--last=0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "flows were lost here") {
		t.Errorf("weft observe marks no gap: %v", err)
	}
}

// lostBy returns what a source lost.
func lostBy(st api.Status, source string) uint64 {
	at := slices.IndexFunc(st.Lost, func(l *model.Lost) bool { return l.Source == source })
	if at < 0 {
		return 0
	}
	return st.Lost[at].Count
}

// echoAll sends back what comes, until l is closed.
func echoAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// exchange has a byte sent back on a new connection.
func exchange(t *testing.T, from *lab.Pod, to string) error {
	c, err := from.Dial(t.Context(), "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}
