package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/check"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/testenv"
)

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// page returns what an address of the agent answers.
func page(t *testing.T, url string) (status int, body string) {
	t.Helper()
	c := &http.Client{Timeout: 10 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// metric returns the value of a metric, "absent" if there is none. The name is with its labels.
func metric(t *testing.T, address, name string) string {
	t.Helper()
	_, text := page(t, "http://"+address+"/metrics")
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return "absent"
}

// weftCheck returns what weft check says of a cluster whose only node has a status.
func weftCheck(st api.Status) string {
	installed := &check.Installed{
		Installation: survey.Installation{
			Nodes: []survey.Node{{Name: "n", Linux: true, Ready: true}},
			Parts: []survey.Part{{Kind: "DaemonSet", Name: "weft-agent", Observed: true, Want: 1, Updated: 1, Ready: 1}},
			Pods:  []survey.Pod{{Name: "weft-agent-n", Component: survey.Agent, Node: "n", Ready: true}},
		},
		Agents: []check.Agent{{Node: "n", Status: st}},
	}
	var failed []string
	for _, r := range installed.Check() {
		if r.Level == check.Fail {
			failed = append(failed, fmt.Sprint(r))
		}
	}
	return strings.Join(failed, "\n")
}

// TestHooks changes hooks of a node from outside. Everything that an operator looks at says so, and the agent puts the
// hook right while it serves.
func TestHooks(t *testing.T) {
	testenv.Root(t)
	metrics, probes := freeAddress(t), freeAddress(t)
	n := newNode(t, "--metrics-address="+metrics, "--health-address="+probes)
	n.healthy(t)
	pins := filepath.Join("/sys/fs/bpf", n.Name)
	inbound, err := filepath.Glob(filepath.Join(pins, "pods", "*"))
	if err != nil || len(inbound) == 0 {
		t.Fatal(inbound, err)
	}
	for i, c := range []struct {
		name, pin string
		breaks    func(t *testing.T, pin string)
		alarm     string
	}{
		{"link detached", filepath.Join(pins, "links", "connect4"), detach, "hook connect4: the program was detached"},
		{"link replaced", filepath.Join(pins, "links", "connect4"), replace, "hook connect4: the program was replaced"},
		{"pin removed", filepath.Join(pins, "links", "connect4"), unpin, "hook connect4: the pin "},
		{"program unloaded", filepath.Join(pins, "links", "connect4"), unload, "hook connect4: the program was detached"},
		{"a pod's link detached", inbound[0], detach, "hook sk_lookup/"},
		{"a pod's program replaced", inbound[0], replaceInbound, "the program was replaced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.breaks(t, c.pin)
			n.alarmed(t, metrics, probes, c.alarm)
			if v := metric(t, metrics, "weft_datapath_hook_repairs_total"); v != fmt.Sprint(i+1) {
				t.Errorf("%s repairs are counted, want %d", v, i+1)
			}
			n.healthy(t)
			eventually(t, "the agent is ready", func() error {
				if status, body := page(t, "http://"+probes+"/readyz"); status != http.StatusOK {
					return fmt.Errorf("%d: %s", status, body)
				}
				return nil
			})
			if v := metric(t, metrics, "weft_datapath_missing_hooks"); v != "0" {
				t.Errorf("%s hooks are missing", v)
			}
			// The hook works: the Service is balanced, and nobody gets into a strict pod in the clear.
			if err := ok(get(n.client, n.web, "/")); err != nil {
				t.Error(err)
			}
			if status, body, err := get(n.passerby, n.vaultPod, "/"); err == nil {
				t.Errorf("a plain client gets into a strict pod: %d %q", status, body)
			}
		})
	}
}

// alarmed waits for an alarm in weft status, the metric, /readyz and weft check.
func (n *node) alarmed(t *testing.T, metrics, probes, alarm string) {
	t.Helper()
	eventually(t, "everything tells", func() error {
		out, err := exec.Command(n.Binary, "status", "--run", n.RunDir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), alarm) {
			return fmt.Errorf("weft status: %w: %s", err, out)
		}
		if v := metric(t, metrics, "weft_datapath_missing_hooks"); v != "1" {
			return fmt.Errorf("the metric is %s", v)
		}
		if status, body := page(t, "http://"+probes+"/readyz"); status == http.StatusOK || !strings.Contains(body, alarm) {
			return fmt.Errorf("/readyz: %d: %s", status, body)
		}
		if said := weftCheck(n.status(t)); !strings.Contains(said, alarm) {
			return fmt.Errorf("weft check: %s", said)
		}
		return nil
	})
}

func openLink(t *testing.T, pin string) link.Link {
	t.Helper()
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func detach(t *testing.T, pin string) {
	if err := openLink(t, pin).Detach(); err != nil {
		t.Fatal(err)
	}
}

// unload takes the program off its hook, and the pin away by which it could be put back.
func unload(t *testing.T, pin string) {
	detach(t, pin)
	unpin(t, pin)
}

// replace puts a program in the place of connect4, and replaceInbound in that of a pod's sk_lookup. Theirs allow everything
// and do nothing.
func replace(t *testing.T, pin string) {
	update(t, pin, ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect)
}

func replaceInbound(t *testing.T, pin string) { update(t, pin, ebpf.SkLookup, ebpf.AttachSkLookup) }

func update(t *testing.T, pin string, kind ebpf.ProgramType, hook ebpf.AttachType) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: kind, AttachType: hook, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := openLink(t, pin).Update(prog); err != nil {
		t.Fatal(err)
	}
}

func unpin(t *testing.T, pin string) {
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
}

// eventsLost stops the agent's process for a while, in which more connections end than the kernel's ring has room for.
func eventsLost(t *testing.T, n *node) {
	reader, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var gap uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		err := n.API.Flows(reader, api.FlowQuery{Follow: true}, func(e observe.Event) error {
			mu.Lock()
			defer mu.Unlock()
			gap += e.Lost
			return nil
		})
		if err != nil {
			t.Errorf("weft observe -f: %v", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	l, err := n.client.Listen("tcp", netip.AddrPortFrom(n.client.Address, 9999).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	pid := n.status(t).Agent.PID
	eventually(t, "the reader follows", func() error {
		connect(t, n, l.Addr().String(), 1)
		return nil
	})
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	connect(t, n, l.Addr().String(), 5000) // some 7,700 events fit; each connection makes two or more
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the losses are told", func() error {
		st := n.status(t)
		at := slices.IndexFunc(st.Lost, func(l *model.Lost) bool { return l.Source == model.LostKernelRing })
		mu.Lock()
		defer mu.Unlock()
		if at < 0 || st.Lost[at].Count == 0 || st.Lost[at].Count != gap {
			return fmt.Errorf("status %+v, the reader heard of %d", st.Lost, gap)
		}
		return nil
	})
	out, err := exec.Command(n.Binary, "observe", "--run", n.RunDir, "--last=0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "flows were lost here") {
		t.Errorf("weft observe marks no gap: %v", err)
	}
}

// connect makes connections from the passerby, one after the other.
func connect(t *testing.T, n *node, to string, count int) {
	t.Helper()
	for range count {
		c, err := n.passerby.Dial(t.Context(), "tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c) // until the other end closes it
		c.Close()
	}
}
