package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where the datapath hangs in the kernel. The zero value is fit for a node.
type Config struct {
	// CgroupRoot is the cgroup2 directory that the programs are attached to; "" is the cgroup2 mount of /proc/mounts.
	CgroupRoot string
	// PinDir holds maps and links, below a bpffs mount; "" is /sys/fs/bpf/weft. A bpffs is mounted there if there is none.
	PinDir string
	// ProxyCgroup is Envoy's cgroup below CgroupRoot; "" is weft-proxy. It is made if it is missing.
	ProxyCgroup string
	// AcceptTimeout bounds how long a workload's first identity and a Service's first route wait until Envoy has accepted
	// them (state.Accepted). Until then the workload is treated as one without an identity, and the port is balanced in
	// the kernel; after it the new state is in force, whatever fails because of it. 0 does not wait.
	AcceptTimeout time.Duration
	// LeaveTimeout is how long a workload that restricts who may connect stays closed after it has gone, while its
	// network namespace is there: another workload may be about to get it. 0 leaves at once.
	LeaveTimeout time.Duration
	// Tunnel hands the authenticated bytes of local workloads to weft tunnel where it listens, and not to Envoy.
	Tunnel bool
	// AdmissionRate is how many connections a second Envoy and weft tunnel accept of one source: of a pod those that it makes,
	// else those from one address. Past it, and past twice as many at once, the packets that open connections are dropped, and
	// their senders try again after a second. 0 is no bound; at most 1,000,000.
	AdmissionRate uint32
	// NoUDPFlows leaves out the programs that look at UDP packets: Datagrams reports nothing then.
	NoUDPFlows bool
	// ExchangeIdle is how long after its last datagram an exchange by UDP has ended; 0 is DefaultExchangeIdle.
	ExchangeIdle time.Duration
	// Log is slog.Default if nil.
	Log *slog.Logger
}

const (
	sysBPF             = "/sys/fs/bpf"
	defaultPinDir      = sysBPF + "/weft"
	defaultProxyCgroup = "weft-proxy"
	bpfFSMagic         = 0xcafe4a11 // linux/magic.h, BPF_FS_MAGIC
)

// withDefaults fills what is empty. It changes nothing on the machine.
func (c Config) withDefaults() (Config, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.ExchangeIdle == 0 {
		c.ExchangeIdle = DefaultExchangeIdle
	}
	if c.PinDir == "" {
		c.PinDir = defaultPinDir
	}
	if c.ProxyCgroup == "" {
		c.ProxyCgroup = defaultProxyCgroup
	}
	if !filepath.IsLocal(c.ProxyCgroup) || filepath.Clean(c.ProxyCgroup) == "." {
		return c, fmt.Errorf("cgroup of the proxy: %q is not a path below the cgroup2 mount", c.ProxyCgroup)
	}
	if c.CgroupRoot == "" {
		root, err := CgroupMount()
		if err != nil {
			return c, err
		}
		c.CgroupRoot = root
	}
	return c, nil
}

func (c Config) proxyPath() string { return filepath.Join(c.CgroupRoot, c.ProxyCgroup) }

// CgroupMount finds the first cgroup2 mount.
func CgroupMount() (string, error) {
	f, err := os.Open("/proc/mounts")
	if err != nil {
		return "", fmt.Errorf("look for the cgroup2 mount: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if p := strings.Fields(s.Text()); len(p) > 2 && p[2] == "cgroup2" {
			return p[1], nil
		}
	}
	if err := s.Err(); err != nil {
		return "", fmt.Errorf("look for the cgroup2 mount: %w", err)
	}
	return "", errors.New("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

// prepare makes the proxy's cgroup and the directory of pins.
func (c Config) prepare() error {
	if err := os.MkdirAll(c.proxyPath(), 0o755); err != nil {
		return fmt.Errorf("cgroup of the proxy: %w", err)
	}
	if err := c.mountBPFFS(); err != nil {
		return err
	}
	for _, d := range []string{mapDir, linkDir, podDir} {
		if err := os.MkdirAll(filepath.Join(c.PinDir, d), 0o700); err != nil {
			return fmt.Errorf("directory of pins: %w", err)
		}
	}
	return nil
}

// mountBPFFS mounts a bpffs where pins are to be and there is none: at the usual place, for nothing can be made in sysfs
// below it, else on the directory of pins itself.
func (c Config) mountBPFFS() error {
	mount := c.PinDir
	if strings.HasPrefix(c.PinDir, sysBPF+"/") {
		mount = sysBPF
	} else if err := os.MkdirAll(c.PinDir, 0o700); err != nil {
		return fmt.Errorf("directory of pins: %w", err)
	}
	if ok, err := isBPFFS(mount); err != nil || ok {
		return err
	}
	if err := unix.Mount("bpf", mount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", mount, err)
	}
	return nil
}

func isBPFFS(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("file system of %s: %w", path, err)
	}
	return uint32(st.Type) == bpfFSMagic, nil
}
