package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// inboundProgram is what the inbound programs of this agent have in common. The first one that was loaded tells.
type inboundProgram struct {
	own       uint32       // offset of the network namespace's cookie among the constants
	tag       string       // the kernel's hash of the instructions
	maps      []ebpf.MapID // those that it uses, without the constants
	constants []byte
}

// learn takes in a program that was loaded.
func (i *inboundProgram) learn(prog *ebpf.Program) (err error) {
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("read the program %s: %w", prog, err)
	}
	maps, constants, err := mapsOf(info)
	if err == nil {
		i.tag, i.maps, i.constants = info.Tag, maps, constants
	}
	return err
}

// is reports whether a program in the kernel has the instructions, the maps and the constants of this agent's for the
// network namespace with the cookie. One that cannot be read is not: it is replaced.
func (i *inboundProgram) is(id ebpf.ProgramID, cookie uint64) bool {
	if i.tag == "" {
		return false
	}
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil || info.Tag != i.tag {
		return false
	}
	want := bytes.Clone(i.constants)
	binary.NativeEndian.PutUint64(want[i.own:], cookie)
	maps, constants, err := mapsOf(info)
	return err == nil && slices.Equal(maps, i.maps) && bytes.Equal(constants, want)
}

// mapsOf returns the numbers of the maps that a program uses, sorted, and its constants.
func mapsOf(info *ebpf.ProgramInfo) (maps []ebpf.MapID, constants []byte, err error) {
	all, ok := info.MapIDs()
	if !ok {
		return nil, nil, errors.New("the kernel does not say which maps a program uses")
	}
	for _, id := range all {
		content, err := constantsIn(id)
		switch {
		case err != nil:
			return nil, nil, err
		case content != nil:
			constants = content
		default:
			maps = append(maps, id)
		}
	}
	if constants == nil {
		return nil, nil, errors.New("the program has no constants")
	}
	slices.Sort(maps)
	return maps, constants, nil
}

// constantsIn returns the content of a map if it holds a program's constants, else nil.
func constantsIn(id ebpf.MapID) ([]byte, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open map %d: %w", id, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return nil, fmt.Errorf("read map %d: %w", id, err)
	}
	if info.Name != rodata {
		return nil, nil
	}
	content, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read the constants in map %d: %w", id, err)
	}
	return content, nil
}

// inherited returns the link of an earlier agent if it runs what this one would load, nil if there is none. A restart of
// the agent then loads one inbound program instead of one for each pod.
func (n *kernelNamespace) inherited() *heldLink {
	pin := n.k.pin(n.cookie)
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil
	}
	info, err := l.Info()
	if err != nil || linkTarget(info) != n.inode || !n.k.inbound.is(info.Program, n.cookie) {
		_ = l.Close() // it is opened again to be updated
		return nil
	}
	return &heldLink{link: l, id: info.ID, program: info.Program, pin: pin}
}
