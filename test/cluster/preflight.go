package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// preflight tells what this machine lacks, all at once.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root: it makes namespaces and mounts")
	}
	var missing []string
	for _, tool := range []string{"runc", "conntrack", "ethtool", "socat", "ip", "nsenter", "nice", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		missing = append(missing, "CNI plugins in "+cniPlugins)
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s: run install/setup-cluster.sh", strings.Join(missing, ", "))
	}
	return nil
}

// readResolvConf prefers the list behind a resolver on loopback.
func readResolvConf() string {
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		if b, err := os.ReadFile(path); err == nil {
			return string(b)
		}
	}
	return ""
}
