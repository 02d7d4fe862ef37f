package datapath

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// inboundLink opens the pinned link of a pod's network namespace.
func inboundLink(t testing.TB, pin string) (link.Link, ebpf.ProgramID) {
	t.Helper()
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := l.Info()
	if err != nil {
		t.Fatal(errors.Join(err, l.Close()))
	}
	return l, info.Program
}

// inboundPrograms returns the program of each pod's link, by pin.
func (n *node) inboundPrograms() map[string]ebpf.ProgramID {
	n.t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.cfg.PinDir, podDir, "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	out := map[string]ebpf.ProgramID{}
	for _, pin := range pins {
		l, id := inboundLink(n.t, pin)
		out[pin] = id
		if err := l.Close(); err != nil {
			n.t.Fatal(err)
		}
	}
	return out
}

func (n *node) restart() {
	n.t.Helper()
	n.end()
	n.start()
	n.sync()
}

// changed returns the pins whose program is another one.
func changed(before, after map[string]ebpf.ProgramID) (out []string) {
	for pin, id := range after {
		if before[pin] != id {
			out = append(out, pin)
		}
	}
	return out
}

// TestRestartKeepsInboundPrograms: the next agent loads one program, and finds by it that the others are what it would
// load. A program that is not is replaced: here that of another network namespace, and one that was loaded with other
// maps.
func TestRestartKeepsInboundPrograms(t *testing.T) {
	n, _, _ := meshed(t)
	n.sync()
	first := n.inboundPrograms()
	if len(first) != 3 {
		t.Fatalf("programs of %d pods, want 3", len(first))
	}
	n.restart()
	second := n.inboundPrograms()
	if c := changed(first, second); len(second) != 3 || len(c) != 1 {
		t.Errorf("a restart replaced %d of %d programs, want 1", len(c), len(second))
	}

	n.end()
	pins := make([]string, 0, 3)
	for pin := range second {
		pins = append(pins, pin)
	}
	wrong, err := ebpf.NewProgramFromID(second[pins[1]])
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	foreign := withOwnMaps(t, n.d.spec)
	for i, prog := range map[int]*ebpf.Program{0: wrong, 2: foreign} {
		l, _ := inboundLink(t, pins[i])
		if err := errors.Join(l.Update(prog), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	tampered := n.inboundPrograms()
	n.start()
	n.sync()
	third := n.inboundPrograms()
	for _, i := range []int{0, 2} {
		if third[pins[i]] == tampered[pins[i]] {
			t.Errorf("pod %d of 3 keeps a program that is not its own", i)
		}
	}
	for pin, id := range third {
		if got, want := cookieIn(t, id, n.d.spec), filepath.Base(pin); strconv.FormatUint(got, 16) != want {
			t.Errorf("the program of network namespace %s is for %x", want, got)
		}
	}
}

// withOwnMaps loads the inbound program with maps that no other program has.
func withOwnMaps(t *testing.T, spec *ebpf.CollectionSpec) *ebpf.Program {
	t.Helper()
	spec = spec.Copy()
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	prog, err := loadOne(spec, nil, weftProgInbound, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = prog.Close() })
	return prog
}

// cookieIn is the network namespace that a program in the kernel has as its own.
func cookieIn(t *testing.T, id ebpf.ProgramID, spec *ebpf.CollectionSpec) uint64 {
	t.Helper()
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	_, constants, err := mapsOf(info)
	if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(constants[spec.Variables[weftVarOwnNetns].Offset:])
}
