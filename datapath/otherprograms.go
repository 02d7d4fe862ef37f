package datapath

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// OtherProgram is a program of somebody else at a hook of the cgroup root that this package uses.
type OtherProgram struct {
	Hook    string // cgroup/connect4
	Program string // its name, as the kernel knows it
}

// OtherPrograms looks for programs of others that rewrite destinations as ours do. It needs CAP_SYS_ADMIN.
func OtherPrograms(cfg Config) ([]OtherProgram, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	root, err := os.Open(cfg.CgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("cgroup root: %w", err)
	}
	defer root.Close()
	var out []OtherProgram
	for _, h := range []struct {
		name   string
		attach ebpf.AttachType
	}{
		{"cgroup/connect4", ebpf.AttachCGroupInet4Connect}, {"cgroup/connect6", ebpf.AttachCGroupInet6Connect},
		{"cgroup/sendmsg4", ebpf.AttachCGroupUDP4Sendmsg}, {"cgroup/sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
	} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(root.Fd()), Attach: h.attach})
		if err != nil {
			return out, fmt.Errorf("programs at %s of %s: %w", h.name, cfg.CgroupRoot, err)
		}
		for _, p := range found.Programs {
			name, err := programName(p.ID)
			if err != nil {
				return out, fmt.Errorf("program at %s of %s: %w", h.name, cfg.CgroupRoot, err)
			}
			if name != "" && !ours(name, h.attach) {
				out = append(out, OtherProgram{h.name, name})
			}
		}
	}
	return out, nil
}

// programName gives "" for a program that went meanwhile.
func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", err
	}
	return info.Name, nil
}

// ours goes by the name: an agent with other pins has the same programs.
func ours(name string, attach ebpf.AttachType) bool {
	return slices.ContainsFunc(hooks, func(h hook) bool { return h.attach == attach && h.program == name })
}
