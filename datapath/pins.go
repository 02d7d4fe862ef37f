package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Pins, below Config.PinDir:
//
//	maps/<name>-<layout>   each map by a digest of its layout, so that a version with another layout has its own
//	links/<program>        the cgroup hooks
//	pods/<cookie>          sk_lookup of each local workload's namespace, cookie in hex
const (
	mapDir  = "maps"
	linkDir = "links"
	podDir  = "pods"
)

// meaning is raised when entries that user space writes change their meaning and not their layout. A variable for tests.
var meaning = "1"

// filled are the maps that user space writes. The others are filled by programs as connections come, so a new layout
// loses what is in them. What listeners held is found again (findListeners).
var filled = map[string]bool{
	weftMapFrontends: true, weftMapSlots: true, weftMapMembers: true, weftMapPeers: true, weftMapInspectedPorts: true, weftMapPods: true,
	weftMapNamespaces: true, weftMapOwn: true, weftMapSelves: true, weftMapProbes: true, weftMapProbeRequests: true,
	weftMapPodCgroups: true, weftMapNodes: true, weftMapOtherNodes: true,
}

// layout is a digest of what two versions must agree on to share a map.
func layout(spec *ebpf.MapSpec) (string, error) {
	h := sha256.New()
	if filled[spec.Name] {
		fmt.Fprint(h, meaning)
	}
	fmt.Fprintf(h, " %d %d %d %d %d", spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags)
	for _, t := range []btf.Type{spec.Key, spec.Value} {
		if t == nil {
			continue
		}
		text, err := (&btf.GoFormatter{}).TypeDeclaration("t", t)
		if err != nil {
			return "", fmt.Errorf("layout of map %s: %w", spec.Name, err)
		}
		fmt.Fprintln(h, text)
	}
	return hex.EncodeToString(h.Sum(nil)[:4]), nil
}

func mapPin(dir string, spec *ebpf.MapSpec) (string, error) {
	l, err := layout(spec)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, mapDir, spec.Name+"-"+l), nil
}

// pinInode identifies a pin. A file of a bpf file system leads to one object for as long as it exists, so a pin with the
// same inode leads to the same object, which is cheaper to see than by opening it.
type pinInode struct{ dev, ino uint64 }

func inodeOfPin(pin string) (pinInode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(pin, &st); err != nil {
		return pinInode{}, err
	}
	return pinInode{dev: st.Dev, ino: st.Ino}, nil
}

// openMaps opens the pinned maps and makes and pins those that are missing. fresh has the names of those that were made:
// they do not hold what older programs work with.
func openMaps(dir string, spec *ebpf.CollectionSpec) (maps map[string]*ebpf.Map, fresh map[string]bool, err error) {
	maps, fresh = map[string]*ebpf.Map{}, map[string]bool{}
	defer func() {
		if err != nil {
			closeMaps(maps)
		}
	}()
	for name, ms := range spec.Maps {
		if name == rodata {
			continue
		}
		pin, err := mapPin(dir, ms)
		if err != nil {
			return maps, nil, err
		}
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if errors.Is(err, os.ErrNotExist) {
			fresh[name] = true
			if m, err = ebpf.NewMap(ms); err != nil {
				return maps, nil, fmt.Errorf("make map %s: %w", name, err)
			}
			if err = m.Pin(pin); err != nil {
				err = errors.Join(err, m.Close())
			}
		}
		if err != nil {
			return maps, nil, fmt.Errorf("map %s at %s: %w", name, pin, err)
		}
		maps[name] = m
	}
	return maps, fresh, nil
}

const rodata = ".rodata"

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // a descriptor: nothing to lose
	}
}

// removeStaleMaps removes pins of maps that this version does not use. Programs that use them keep them.
func removeStaleMaps(dir string, spec *ebpf.CollectionSpec) error {
	keep := map[string]bool{}
	for name, ms := range spec.Maps {
		if name == rodata {
			continue
		}
		pin, err := mapPin(dir, ms)
		if err != nil {
			return err
		}
		keep[pin] = true
	}
	pins, err := filepath.Glob(filepath.Join(dir, mapDir, "*"))
	if err != nil {
		return err
	}
	for _, p := range pins {
		if !keep[p] {
			if err := os.Remove(p); err != nil {
				return fmt.Errorf("remove the old map: %w", err)
			}
		}
	}
	return nil
}
