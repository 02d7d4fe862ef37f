package datapath

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestEndWaitsForTheInspection: the end of a connection that Envoy inspects comes later than what was sent before it, by so much that
// the inspection is over. Nothing is kept back where Envoy has answered, nor at its other listeners.
func TestEndWaitsForTheInspection(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled, func(w *model.Workload) { w.Local = false }))
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		backends = append(backends, netip.AddrPortFrom(ip, 8080))
	}
	n.service(model.TCP, true, 0, backends...)
	s, _ := n.st.Services.Get(n.st.Snapshot(), "ns/svc")
	for _, c := range []struct {
		name   string
		detect bool
		listen string // before the addresses of the proxy's listeners
		greets bool
		held   bool
	}{
		{"nothing came back", true, "reading ", false, true},
		{"Envoy has answered", true, "", true, false},
		{"no inspection", false, "reading ", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := *s
			changed.Ports = []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true, Detect: c.detect}}
			put(n, n.st.Services, &changed)
			n.sync()
			var listen []string
			for _, l := range proxyListeners {
				listen = append(listen, c.listen+l)
			}
			pp := n.proxy(a, listen...)
			defer pp.kill()
			for _, ip := range addrs(a) {
				answer, held, err := n.sayAndClose(a, vip(ip), c.greets)
				if err != nil || c.listen != "" && answer != `read "metric" <nil>` {
					t.Errorf("%s: %q, %v", ip, answer, err)
				}
				if held != c.held {
					t.Errorf("%s: the end is kept back: %t, want %t", ip, held, c.held)
				}
			}
		})
	}
}

// sayAndClose sends a text and ends its side, after the first line from the other side if that greets. It returns the last line that
// came, and whether the end was kept back.
func (n *node) sayAndClose(p *lab.Pod, to netip.AddrPort, greets bool) (line string, held bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := p.Dial(ctx, "tcp", to.String())
	if err != nil {
		return "", false, err
	}
	c := conn.(*net.TCPConn)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(c)
	if greets {
		if line, err = in.ReadString('\n'); err != nil {
			return "", false, err
		}
	}
	if _, err := fmt.Fprint(c, "metric"); err != nil {
		return "", false, err
	}
	if err := c.CloseWrite(); err != nil {
		return "", false, err
	}
	if !greets {
		if line, err = in.ReadString('\n'); err != nil {
			return "", false, err
		}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return "", false, err
	}
	err = raw.Control(func(fd uintptr) {
		var since uint64
		held = n.d.maps[weftMapClosings].Lookup(int32(fd), &since) == nil
	})
	return strings.TrimSpace(line), held, err
}
