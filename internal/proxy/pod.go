package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/setns"
)

// A supervisor in a pod starts an Envoy that outlives the pod. What would end it with the pod:
//
//   - The container runtime kills what is in the container's cgroups. Envoy's cgroup is the node's, in the second
//     version's hierarchy. Where namespaces bound who may be put where (the mount option nsdelegate), it takes the
//     node's cgroup namespace to put a process there (inCgroupNamespace). Where the runtime uses hierarchies of the first
//     version, and so no namespace, Envoy leaves those (leaveOldHierarchies).
//   - Envoy asks the kernel for a SIGTERM when its parent ends. Its parent is the runtime's shim, a subreaper, which ends
//     with the pod. The request is let through without effect (confine).
//
// Its mount namespace lives as long as it does, with the container's files; what it opens later lies in folders of the
// node: the run directory, /dev/shm, the pods' network namespaces.

// hostCgroups is the cgroup namespace of the node's init.
const hostCgroups = "/proc/1/ns/cgroup"

// inCgroupNamespace runs f in the cgroup namespace at a path. Processes that f starts are in it too.
func inCgroupNamespace(path string, f func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("the node's cgroup namespace: %w; the pod needs hostPID and CAP_SYS_PTRACE", err)
	}
	defer ns.Close()
	return setns.Cgroup.Do(int(ns.Fd()), f)
}

// leaveOldHierarchies moves this process to the root of every cgroup hierarchy of the first version. A container sees
// only its own part of them, so each is mounted anew, where nobody else sees it.
func leaveOldHierarchies() error {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for _, controllers := range oldHierarchies(string(text)) {
		if err := moveToRoot(controllers); err != nil {
			return fmt.Errorf("leave the container's cgroup of %s: %w", controllers, err)
		}
	}
	return nil
}

// oldHierarchies gives the controllers ("cpu,cpuacct", "name=systemd") of the hierarchies in which a process is not at
// the root, from the text of cgroups(7)'s /proc/<pid>/cgroup: lines "ID:controllers:path".
func oldHierarchies(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] != "" && f[2] != "/" {
			out = append(out, f[1])
		}
	}
	return out
}

func moveToRoot(controllers string) error {
	ctx, err := unix.Fsopen("cgroup", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(ctx) }()
	for c := range strings.SplitSeq(controllers, ",") {
		if name, ok := strings.CutPrefix(c, "name="); ok {
			err = unix.FsconfigSetString(ctx, "name", name)
		} else {
			err = unix.FsconfigSetFlag(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return err
	}
	root, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	procs, err := unix.Openat(root, "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(procs) }()
	_, err = unix.Write(procs, []byte("0"))
	return err
}

// limitMemory bounds what all processes of a cgroup use together: two Envoys, while one hands over to the other, each
// with what is not heap, and weft tunnel. The kernel then ends one of them that its own bounds did not hold, and not
// something else of the node. Where the cgroup has no memory controller there is no bound.
func limitMemory(cgroup string, heap uint64, tunnel bool) error {
	beside := uint64(512 << 20)
	if tunnel {
		beside += tunnelMemory
	}
	file := filepath.Join(cgroup, "memory.max")
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d", 2*heap+beside)
	return errors.Join(err, f.Close())
}
