package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// cniPlugins is where Debian's package containernetworking-plugins puts them.
const cniPlugins = "/usr/lib/cni"

// ownFolders are overlaid in a node: it sees the machine's files, and what it writes stays in its own folder.
var ownFolders = []string{"/etc", "/opt", "/var"}

// settings are kernel settings as a kubelet wants them. It is shown files that say so, and leaves the kernel's alone.
var settings = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// checkDir reports whether a cluster can live in a folder: an overlay cannot write into what it lies over.
func checkDir(dir string) error {
	for _, own := range append([]string{"/run"}, ownFolders...) {
		if dir == own || strings.HasPrefix(dir, own+"/") {
			return fmt.Errorf("cluster folder %s: nodes have a %s of their own: set XDG_CACHE_HOME to a folder elsewhere", dir, own)
		}
	}
	return nil
}

// nodeCgroups is where a node sees its own cgroup as if it were the root: two nodes share a kernel, and what one attaches
// to its cgroup must not hold for the other.
const nodeCgroups = "/run/cgroup2"

// mountNode gives the thread's mount namespace, which must be new, the folders of a node. What the node writes goes
// into dir; cgroup is the folder of its cgroup.
func mountNode(dir, cgroup string, nameservers []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, own := range ownFolders {
		if err := overlay(filepath.Join(dir, "root", own), own); err != nil {
			return err
		}
	}
	for _, data := range []string{"/var/lib/containerd", "/var/lib/kubelet"} { // an overlay cannot lie on an overlay
		if err := bind(filepath.Join(dir, data), data); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := bind(cgroup, nodeCgroups); err != nil {
		return err
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	if err := showSettings(filepath.Join(dir, "settings")); err != nil {
		return err
	}
	if err := install(filepath.Join(dir, "installed"), nameservers); err != nil {
		return err
	}
	// Shared among the node's own namespaces, so that containers may ask for mounts in both directions.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func overlay(dir, target string) error {
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	options := "lowerdir=" + target + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay on %s: %w: the kernel needs overlay, and %s must not be on one", target, err, dir)
	}
	return nil
}

func bind(source, target string) error {
	if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(target, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

func showSettings(dir string) error {
	for name, value := range settings {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on /proc/sys/%s: %w", name, err)
		}
	}
	return nil
}

// install populates a node's disk when it boots for the first time: what was changed since then stays, as on any disk.
func install(mark string, nameservers []string) error {
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := populate(nameservers); err != nil {
		return err
	}
	return os.WriteFile(mark, nil, 0o644)
}

// populate writes what a node has in /etc and /opt: name servers and CNI plugins, and nothing of the machine's own CNI.
func populate(nameservers []string) error {
	if err := errors.Join(os.RemoveAll("/etc/cni"), os.RemoveAll("/opt/cni"), os.RemoveAll("/etc/resolv.conf")); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll("/etc/cni/net.d", 0o755), os.MkdirAll("/opt/cni/bin", 0o755)); err != nil {
		return err
	}
	var resolv strings.Builder
	for _, ns := range nameservers {
		fmt.Fprintf(&resolv, "nameserver %s\n", ns)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolv.String()), 0o644); err != nil {
		return err
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
		b, err := os.ReadFile(filepath.Join(cniPlugins, plugin))
		if err != nil {
			return fmt.Errorf("CNI plugin: %w: run install/setup-cluster.sh", err)
		}
		if err := os.WriteFile(filepath.Join("/opt/cni/bin", plugin), b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// nameservers reads those of a resolv.conf that pods can reach: none on loopback. A file without any gives the fallback,
// since cluster DNS does not start without one.
func nameservers(resolvConf, fallback string) []string {
	var out []string
	for line := range strings.Lines(resolvConf) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "nameserver" && !strings.HasPrefix(f[1], "127.") && f[1] != "::1" {
			out = append(out, f[1])
		}
	}
	if len(out) == 0 {
		return []string{fallback}
	}
	return out
}
