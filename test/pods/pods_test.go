package pods

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPods takes a node through what a kubelet and a container runtime do to it, and through the agent's faults.
func TestPods(t *testing.T) {
	n := newNode(t)
	defer n.clean()
	for namespace, mode := range map[string]string{"bank": "strict", "shop": "permissive", "plain": "disabled"} {
		n.api.namespace(namespace, mode)
	}
	early := n.newPod("bank", "early")
	early.object(early.Address.String())
	early.run()
	n.eventually("a pod takes connections before there is a mesh", func() error {
		if early.refuses() == nil {
			return errors.New("it refuses them")
		}
		return nil
	})
	n.start()
	n.ready()
	n.eventually("a pod that ran before joins", func() error { return early.joined(true) })

	n.chain()

	late := n.newPod("bank", "late")
	took, err := late.cni("ADD")
	if err != nil {
		t.Fatalf("ADD: %v", err)
	}
	t.Logf("ADD of a strict pod took %v", took.Round(time.Millisecond))
	late.run()
	if err := late.joined(true); err != nil {
		t.Errorf("right after ADD: %v", err)
	}
	if _, err := late.cni("CHECK"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	stranger := n.newPod("bank", "stranger")
	if _, err := stranger.cni("CHECK"); err == nil {
		t.Error("CHECK of a pod that was not added passes")
	}

	restart(t, n, []*pod{early, late}, func() func() { return downtime(t, n) })
	late.object(late.Address.String())
	restart(t, n, []*pod{early, late}, func() func() {
		if err := os.Remove(n.path("run/placements.json")); err != nil { // all must be found again
			t.Error(err)
		}
		return func() {}
	})

	if _, err := late.cni("DEL"); err != nil {
		t.Errorf("DEL: %v", err)
	}
	n.eventually("a pod leaves", func() error {
		if late.joined(false) == nil {
			return fmt.Errorf("Envoy still listens in its namespace")
		}
		return nil
	})
	if _, err := late.cni("DEL"); err != nil {
		t.Errorf("a second DEL: %v", err)
	}
	n.clean()
	n.leftNothing(early)
}

// leftNothing looks for what weft cleanup must take away; a pod goes on running.
func (n *node) leftNothing(p *pod) {
	n.t.Helper()
	if err := n.chained(); err == nil {
		n.t.Error("the plugin is still chained after weft cleanup")
	}
	for _, pattern := range []string{n.path("bin/*"), n.path("run"), n.path("run/*"), n.path("state/*"), n.pins(), "/dev/shm/envoy_shared_memory_*"} {
		left, _ := filepath.Glob(pattern)
		left = slices.DeleteFunc(left, func(f string) bool { return f == n.path("state/ca") || slices.Contains(n.before, f) })
		if len(left) != 0 {
			n.t.Errorf("left after weft cleanup: %v", left)
		}
	}
	for _, args := range [][]string{{"rule", "list", "priority", "1337"}, {"-6", "rule", "list", "priority", "1337"}, {"route", "show", "table", "100"}, {"-6", "route", "show", "table", "100"}} {
		var out bytes.Buffer
		cmd := exec.Command("ip", args...)
		cmd.Stdout = &out
		if err := p.Start(cmd); err != nil {
			n.t.Fatal(err)
		}
		_ = cmd.Wait() // a table that is not there is an error
		if out.Len() > 0 {
			n.t.Errorf("left in a pod after weft cleanup: ip %s: %s", strings.Join(args, " "), out.String())
		}
	}
}

// restart ends the agent and starts it again. The strict pods stay as they are in each moment. meanwhile runs while there
// is no agent, and what it gives when there is one again.
func restart(t *testing.T, n *node, strict []*pod, meanwhile func() func()) {
	t.Helper()
	n.stop(syscall.SIGKILL)
	watched := always(func() error {
		for _, p := range strict {
			if err := p.joined(true); err != nil {
				return err
			}
		}
		return nil
	})
	afterwards := meanwhile()
	n.start()
	n.ready()
	afterwards()
	time.Sleep(3 * time.Second) // a look for pods and a check of namespaces come by
	if count, err := watched(); err != nil {
		t.Errorf("while the agent restarted: %v", err)
	} else if count < 100 {
		t.Errorf("only looked %d times", count)
	}
}

// downtime lets pods come while there is no agent.
func downtime(t *testing.T, n *node) func() {
	down := map[string]*pod{}
	for i, namespace := range []string{"bank", "unknown", "shop", "plain"} {
		p := n.newPod(namespace, fmt.Sprintf("down%d", i))
		down[namespace] = p
		took, err := p.cni("ADD")
		if refused := namespace == "bank" || namespace == "unknown"; refused != (err != nil) {
			t.Errorf("ADD in namespace %s without an agent: %v", namespace, err)
		} else if refused && (!strings.Contains(err.Error(), `"code": 11`) || !strings.Contains(err.Error(), namespace)) {
			t.Errorf("ADD in namespace %s without an agent gives no reason: %v", namespace, err)
		}
		if took > 5*time.Second {
			t.Errorf("ADD without an agent took %v", took)
		}
		if _, err := p.cni("CHECK"); err != nil {
			t.Errorf("CHECK without an agent: %v", err)
		}
	}
	for _, namespace := range []string{"shop", "plain"} {
		down[namespace].run()
		down[namespace].object(down[namespace].Address.String())
	}
	n.api.namespace("unknown", "disabled")
	return func() {
		for _, p := range []*pod{down["shop"], down["plain"]} {
			n.eventually("a pod that came without an agent joins", func() error { return p.joined(false) })
		}
		for namespace, strict := range map[string]bool{"bank": true, "unknown": false} {
			if _, err := down[namespace].cni("ADD"); err != nil {
				t.Errorf("ADD in namespace %s, tried again: %v", namespace, err)
			} else if err := down[namespace].joined(strict); err != nil {
				t.Error(err)
			}
		}
	}
}

// chained reports whether the plugin is last in the network configuration.
func (n *node) chained() error {
	text, err := os.ReadFile(n.path("conf/10-a.conflist"))
	if err != nil {
		return err
	}
	var list struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	if len(list.Plugins) != 2 || !slices.Contains(list.Plugins, struct{ Type string }{"weft-cni"}) {
		return fmt.Errorf("plugins %v", list.Plugins)
	}
	return nil
}
