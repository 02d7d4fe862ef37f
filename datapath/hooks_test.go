package datapath

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestHooksAreWatched changes each hook from outside, in each way, and waits for the alarm and for the repair.
func TestHooksAreWatched(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.service(model.TCP, false, 0, netip.AddrPortFrom(a.Address, 8080))
	echo(t, a, "a", netip.AddrPortFrom(a.Address, 8080).String())
	echo(t, b, "b", netip.AddrPortFrom(b.Address, 8080).String())
	targets := map[string]string{"sk_lookup/ns/b": n.inboundPin()}
	for _, h := range hooks {
		targets[h.program] = filepath.Join(n.cfg.PinDir, linkDir, h.program)
	}
	eventually(t, "every hook has a row", func() bool {
		for name := range targets {
			if _, ok := n.hook(name); !ok {
				return false
			}
		}
		return true
	})
	for what, breaks := range map[string]struct {
		do   func(t *testing.T, pin string)
		want string
	}{
		"detached by force": {detachByForce, "detached"},
		"pin removed": {func(t *testing.T, pin string) {
			if err := os.Remove(pin); err != nil {
				t.Fatal(err)
			}
		}, "pin"},
		"program replaced": {replaceProgram, "replaced"},
	} {
		t.Run(what, func(t *testing.T) {
			before := map[string]uint64{}
			for name, pin := range targets {
				row, _ := n.hook(name)
				before[name] = row.Repairs
				breaks.do(t, pin)
			}
			for name := range targets {
				eventually(t, "the alarm of "+name, func() bool {
					row, _ := n.hook(name)
					return strings.Contains(row.Error, breaks.want) && row.Repairs == before[name]+1
				})
			}
			eventually(t, "the end of the alarms", func() bool { return len(n.faults()) == 0 })
			n.checkHooks(a, b)
		})
	}
}

// checkHooks looks whether the Service is balanced and the strict pod is closed, and that each hook has one program.
func (n *node) checkHooks(a, b *lab.Pod) {
	n.t.Helper()
	if line, err := ask(b, vip(b.Address)); answer(line) != "a" {
		n.t.Errorf("the Service is not balanced: %q %v", line, err)
	}
	if line, err := ask(a, netip.AddrPortFrom(b.Address, 8080)); !refused(err) {
		n.t.Errorf("the strict pod is open: %q %v", line, err)
	}
	if count, err := attached(n.cfg); err != nil || count != len(hooks) {
		n.t.Errorf("%d programs are attached (%v), want %d", count, err, len(hooks))
	}
}

func (n *node) hook(name string) (model.Programmed, bool) {
	row, ok := n.st.Programmed.Get(n.st.Snapshot(), "hook/"+name)
	if !ok {
		return model.Programmed{}, false
	}
	return *row, true
}

// inboundPin is the pin of the only pod's sk_lookup link.
func (n *node) inboundPin() string {
	n.t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.cfg.PinDir, podDir, "*"))
	if err != nil || len(pins) != 1 {
		n.t.Fatalf("pins %v, %v", pins, err)
	}
	return pins[0]
}

func detachByForce(t *testing.T, pin string) {
	t.Helper()
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
}

// replaceProgram puts a program that does nothing in the place of the link's own.
func replaceProgram(t *testing.T, pin string) {
	t.Helper()
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	old, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	spec := &ebpf.ProgramSpec{
		Name: "theirs", Type: old.Type(), License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	}
	if i := slices.IndexFunc(hooks, func(h hook) bool { return h.program == filepath.Base(pin) }); i >= 0 {
		spec.AttachType = hooks[i].attach
	} else {
		spec.AttachType = ebpf.AttachSkLookup
	}
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if err := l.Update(prog); err != nil {
		t.Fatal(err)
	}
}

// TestPinsOfMapsAreWatched: without them the next agent would begin with empty maps.
func TestPinsOfMapsAreWatched(t *testing.T) {
	n, a, _ := meshed(t)
	number := n.numberOf(vip4)
	pins, err := filepath.Glob(filepath.Join(n.cfg.PinDir, mapDir, "*"))
	if err != nil || len(pins) < 10 {
		t.Fatal(pins, err)
	}
	for _, p := range pins {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the alarm", func() bool {
		row, ok := n.st.Programmed.Get(n.st.Snapshot(), "node/pins")
		return ok && strings.Contains(row.Error, "removed")
	})
	eventually(t, "the end of the alarm", func() bool { return len(n.faults()) == 0 })
	n.end()
	n.start()
	if after := n.numberOf(vip4); after != number {
		t.Errorf("the Service's number went from %d to %d: the maps are others", number, after)
	}
	if _, err := ask(a, vip(a.Address)); err != nil {
		t.Error(err)
	}
}

// TestProxysCgroupIsMadeAgain: its hooks go with it.
func TestProxysCgroupIsMadeAgain(t *testing.T) {
	n := newNode(t)
	b := testenv.Pod(t, n.lab, "b")
	if err := os.Remove(n.cfg.proxyOf()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the alarm", func() bool {
		row, _ := n.hook(weftProgProxyConnect4)
		return row.Error != ""
	})
	eventually(t, "the hooks are back", func() bool {
		count, err := attached(n.cfg)
		return err == nil && count == len(hooks) && len(n.faults()) == 0
	})
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	echo(t, b, "app", netip.AddrPortFrom(b.Address, 8080).String())
	if line, _ := n.proxy(b).dial(t, netip.AddrPortFrom(b.Address, 8080), ""); answer(line) != "app" {
		t.Errorf("the proxy is not known as one: %q", line)
	}
}
