package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// cgroupMounts finds the mounts of the first version's hierarchies in the text of /proc/mounts. A machine of the second
// version alone has none.
func cgroupMounts(mounts io.Reader) []string {
	var out []string
	for s := bufio.NewScanner(mounts); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 2 && f[2] == "cgroup" {
			out = append(out, f[1])
		}
	}
	return out
}

func ownCgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cgroupMounts(f), nil
}

// makeCgroup makes a cgroup, a path below the root, in the hierarchies that have controllers: a kubelet wants its root to
// exist there.
func makeCgroup(cgroup string) error {
	mounts, err := ownCgroupMounts()
	if err != nil {
		return err
	}
	enable := copyCpusets
	if len(mounts) == 0 {
		root, err := lab.CgroupMount()
		if err != nil {
			return err
		}
		mounts, enable = []string{root}, enableControllers
	}
	for _, m := range mounts {
		dir := m
		for part := range strings.SplitSeq(strings.Trim(cgroup, "/"), "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("cgroup %s: %w", dir, err)
			}
			if err := enable(parent, dir); err != nil {
				return fmt.Errorf("cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}

// copyCpusets is for the first version: an empty cpuset takes no process, so each level gets what its parent has.
func copyCpusets(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			continue // not the hierarchy of cpusets
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// enableControllers is for the second version: a level has the controllers that its parent gives.
func enableControllers(parent, _ string) error {
	b, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var words []string
	for name := range strings.FieldsSeq(string(b)) {
		words = append(words, "+"+name)
	}
	return os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(strings.Join(words, " ")), 0)
}

// removeCgroups removes a cgroup and those below it from all hierarchies of the first version. No process may be left.
func removeCgroups(cgroup string) error {
	mounts, err := ownCgroupMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		errs = append(errs, removeTree(filepath.Join(m, cgroup)))
	}
	return errors.Join(errs...)
}

// removeTree removes folders from the leaves on: the files of a cgroup cannot be removed, and go with it.
func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		var err error
		for range 100 { // a killed process stays in its cgroup until it is reaped
			if err = os.Remove(dirs[i]); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = nil
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}
