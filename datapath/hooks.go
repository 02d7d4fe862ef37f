package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// repair is what was found wrong with a hook, and whether it is right again.
type repair struct {
	found string // "" if nothing was wrong
	err   error  // why it could not be put right; nil if it was
	// starting is true where nobody changed the hook: this agent has not attached its program yet.
	starting bool
}

func (r repair) String() string {
	switch {
	case r.found == "", r.starting:
		return r.found
	case r.err != nil:
		return fmt.Sprintf("%s, and it could not be put right: %v", r.found, r.err)
	}
	return r.found + "; it was put right"
}

// heldLink is a pinned link that is kept open, so that its hook works even where somebody removes the pin.
type heldLink struct {
	link    link.Link
	id      link.ID
	program ebpf.ProgramID
	pin     string
	pinned  pinInode // of the pin when it was found to lead to this link
}

func holdLink(l link.Link, prog *ebpf.Program, pin string) (*heldLink, error) {
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("read the link %s: %w", pin, err)
	}
	id, err := programID(prog)
	if err != nil {
		return nil, err
	}
	return &heldLink{link: l, id: info.ID, program: id, pin: pin}, nil
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("read the program %s: %w", p, err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, fmt.Errorf("the kernel gives no number to the program %s", p)
	}
	return id, nil
}

// close lets go of the link. Where it is pinned, the hook goes on.
func (h *heldLink) close() error {
	if h == nil {
		return nil
	}
	return h.link.Close()
}

// check compares the link with the kernel: it must run program, and hang on the cgroup or network namespace with the
// inode target. attach makes the link anew, with its pin.
func (h *heldLink) check(target uint64, prog func() (*ebpf.Program, error), attach func(*ebpf.Program) (link.Link, error)) repair {
	info, err := h.link.Info()
	if err != nil {
		return repair{found: "the link cannot be read: " + err.Error()}
	}
	switch on := linkTarget(info); {
	case on == 0:
		return repair{found: "the program was detached", err: h.renew(prog, attach)}
	case on != target:
		return repair{found: "the program is attached elsewhere", err: h.renew(prog, attach)}
	case info.Program != h.program:
		return repair{found: fmt.Sprintf("the program was replaced by program %d (%s)", info.Program, nameOf(info.Program)), err: h.update(prog)}
	}
	return h.checkPin()
}

// checkPin pins the link again where its pin was removed or replaced.
func (h *heldLink) checkPin() repair {
	inode, err := inodeOfPin(h.pin)
	if err == nil && inode == h.pinned {
		return repair{}
	}
	switch pinned, err := link.LoadPinnedLink(h.pin, nil); {
	case errors.Is(err, os.ErrNotExist):
		return repair{found: "the pin " + h.pin + " was removed", err: h.repin()}
	case err != nil:
		return repair{found: "the pin " + h.pin + " cannot be opened: " + err.Error(), err: h.repin()}
	default:
		defer func() { _ = pinned.Close() }()
		if i, err := pinned.Info(); err != nil || i.ID != h.id {
			return repair{found: "the pin " + h.pin + " was replaced by another link", err: h.repin()}
		}
	}
	h.pinned = inode
	return repair{}
}

// linkTarget is the inode of the cgroup or network namespace that a link hangs on; 0 if it hangs on none any more.
func linkTarget(info *link.Info) uint64 {
	if c := info.Cgroup(); c != nil {
		return c.CgroupId
	}
	if n := info.NetNs(); n != nil {
		return uint64(n.NetnsInode)
	}
	return 0
}

func nameOf(id ebpf.ProgramID) string {
	name, err := programName(id)
	if err != nil {
		return err.Error()
	}
	return name
}

// renew puts a new link in the place of one that does not work.
func (h *heldLink) renew(prog func() (*ebpf.Program, error), attach func(*ebpf.Program) (link.Link, error)) error {
	p, err := prog()
	if err != nil {
		return err
	}
	if err := os.Remove(h.pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pin of the old link: %w", err)
	}
	l, err := attach(p)
	if err != nil {
		return err
	}
	next, err := holdLink(l, p, h.pin)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	err = h.close()
	*h = *next
	return err
}

// update puts the program back into the link.
func (h *heldLink) update(prog func() (*ebpf.Program, error)) error {
	p, err := prog()
	if err != nil {
		return err
	}
	if err := h.link.Update(p); err != nil {
		return fmt.Errorf("put the program back: %w", err)
	}
	h.program, err = programID(p)
	return err
}

// repin pins the link at its path, whatever is there.
func (h *heldLink) repin() error {
	if err := h.link.Unpin(); err != nil {
		return fmt.Errorf("remove the pin %s: %w", h.pin, err)
	}
	if err := h.link.Pin(h.pin); err != nil {
		return fmt.Errorf("pin the link %s: %w", h.pin, err)
	}
	return nil
}

// cgroupHooks are the programs on the cgroups.
type cgroupHooks struct {
	cfg      Config
	spec     *ebpf.CollectionSpec
	maps     map[string]*ebpf.Map
	programs *ebpf.Collection
	links    map[string]*heldLink // by program; nil while programs of an earlier version stay
	pins     map[string]*pinnedMap
}

// attach puts every program on its hook. Programs of an earlier agent are replaced one by one, each atomically.
func (h *cgroupHooks) attach() error {
	if h.links != nil {
		return nil
	}
	links := map[string]*heldLink{}
	release := func(err error) error {
		for _, l := range links {
			err = errors.Join(err, l.close())
		}
		return err
	}
	if err := attachProbeSends(h.maps[weftMapProbeSockets], h.programs.Programs[weftProgProbeSends]); err != nil {
		return err // before sockets come into the map
	}
	for _, k := range hooksOf(h.cfg) {
		l, err := attachHook(h.cfg, k, h.programs.Programs[k.program])
		if err == nil {
			links[k.program] = l
			continue
		}
		return release(fmt.Errorf("hook %s: %w", k.program, err))
	}
	pins, err := filepath.Glob(filepath.Join(h.cfg.PinDir, linkDir, "*"))
	if err != nil {
		return release(err)
	}
	for _, p := range pins {
		if links[filepath.Base(p)] == nil { // a hook of another version
			if err := unpinLink(p); err != nil {
				return release(err)
			}
		}
	}
	if err := removeStaleMaps(h.cfg.PinDir, h.spec); err != nil {
		return release(err)
	}
	h.links = links
	return nil
}

// check compares each hook with the kernel, and puts right what somebody changed.
func (h *cgroupHooks) check() map[string]repair {
	out := map[string]repair{}
	for _, k := range hooksOf(h.cfg) {
		if h.links == nil {
			out[k.program] = repair{found: "the program of an earlier version works on until the maps of this one are filled", starting: true}
			continue
		}
		out[k.program] = h.checkHook(k)
	}
	if h.links != nil {
		out[weftProgProbeSends] = checkProbeSends(h.maps[weftMapProbeSockets], h.programs.Programs[weftProgProbeSends])
	}
	return out
}

func (h *cgroupHooks) checkHook(k hook) repair {
	var dir unix.Stat_t
	if err := unix.Stat(k.cgroup(h.cfg), &dir); err != nil {
		return repair{found: "the cgroup " + k.cgroup(h.cfg) + " is gone", err: err}
	}
	return h.links[k.program].check(dir.Ino,
		func() (*ebpf.Program, error) { return h.programs.Programs[k.program], nil },
		func(p *ebpf.Program) (link.Link, error) { return newCgroupLink(h.cfg, k, p) })
}

// checkPins pins maps again whose pins somebody removed.
func (h *cgroupHooks) checkPins() repair {
	if err := h.cfg.prepare(); err != nil {
		return repair{found: "the pins are gone", err: err}
	}
	if h.pins == nil {
		h.pins = map[string]*pinnedMap{}
		for name, m := range h.maps {
			pin, err := mapPin(h.cfg.PinDir, h.spec.Maps[name])
			if err != nil {
				return repair{found: "the pin of map " + name + " is not known", err: err}
			}
			h.pins[name] = &pinnedMap{m: m, pin: pin}
		}
	}
	var out repair
	for _, p := range h.pins {
		if found, err := p.check(); found != "" {
			out = repair{found: found, err: errors.Join(out.err, err)}
		}
	}
	return out
}

// pinnedMap is a map that is to be found at a pin.
type pinnedMap struct {
	m     *ebpf.Map
	pin   string
	inode pinInode // of the pin when it was found to lead to the map
}

// check returns what was wrong with a map's pin, "" if nothing was.
func (p *pinnedMap) check() (string, error) {
	inode, err := inodeOfPin(p.pin)
	if err == nil && inode == p.inode {
		return "", nil
	}
	pinned, err := ebpf.LoadPinnedMap(p.pin, nil)
	if err == nil {
		defer pinned.Close()
		if sameMap(p.m, pinned) {
			p.inode = inode
			return "", nil
		}
	}
	found := "the pin " + p.pin + " was removed or replaced"
	if err := p.m.Unpin(); err != nil {
		return found, err
	}
	return found, p.m.Pin(p.pin)
}

func sameMap(a, b *ebpf.Map) bool {
	ia, errA := a.Info()
	ib, errB := b.Info()
	if errA != nil || errB != nil {
		return false
	}
	x, okA := ia.ID()
	y, okB := ib.ID()
	return okA && okB && x == y
}

// close lets go of the kernel's objects. What is pinned stays.
func (h *cgroupHooks) close() error {
	if h == nil {
		return nil
	}
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.close())
	}
	h.programs.Close()
	return errors.Join(errs...)
}
