package datapath

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// clientOfRoute makes a pod, and a Service with a route whose backend is on another node.
func (n *node) clientOfRoute() *lab.Pod {
	n.t.Helper()
	a, b := testenv.Pod(n.t, n.lab, "a"), testenv.Pod(n.t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled, func(w *model.Workload) { w.Local = false }))
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		backends = append(backends, netip.AddrPortFrom(ip, 8080))
	}
	n.service(model.TCP, true, 0, backends...)
	return a
}

// TestEndWaitsForTheInspection: the end of a connection that Envoy inspects comes later than what was sent before it, by so much that
// the inspection is over. Nothing is kept back where Envoy has answered, nor at its other listeners.
func TestEndWaitsForTheInspection(t *testing.T) {
	n := newNode(t)
	a := n.clientOfRoute()
	s, _ := n.st.Services.Get(n.st.Snapshot(), "ns/svc")
	for _, c := range []struct {
		name   string
		listen string // before the addresses of the proxy's listeners
		greets bool
		held   bool
	}{
		{"nothing came back", "reading ", false, true},
		{"Envoy has answered", "", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := *s
			changed.Ports = []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true, Detect: true}}
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
		var c weftClosing
		held = n.d.maps[weftMapClosings].Lookup(int32(fd), &c) == nil
	})
	return strings.TrimSpace(line), held, err
}

// TestEndWaitsForTheAnswer: a client that ends its side after its request gets its answer, and the end comes when the answer has. One
// that closes its socket, or has sent nothing, has ended at once.
func TestEndWaitsForTheAnswer(t *testing.T) {
	n := newNode(t)
	a := n.clientOfRoute()
	n.sync()
	var listen []string
	for _, l := range proxyListeners {
		listen = append(listen, "answering "+l)
	}
	pp := n.proxy(a, listen...)
	for _, ip := range addrs(a) {
		dial := func(say string) *net.TCPConn {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			c, err := a.Dial(ctx, "tcp", vip(ip).String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprint(c, say); err != nil {
				t.Fatal(err)
			}
			return c.(*net.TCPConn)
		}
		ended := func(what string) {
			t.Helper()
			if line, err := pp.out.ReadString('\n'); err != nil || line != "ended\n" {
				t.Fatalf("%s, %s: %q, %v", ip, what, line, err)
			}
		}
		half := func(say, want string) {
			t.Helper()
			c := dial(say)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v, want %q", ip, got, err, want)
			}
			ended("it ends its side after " + say)
		}
		half("request", "\"request\", ended: false\n")
		half("", "\"\", ended: true\n")
		c := dial("request")
		_ = c.Close()
		ended("it closes its socket")
	}
}
