package datapath

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeSysctl writes a setting of the calling thread's network namespace: "ipv4/tcp_fwmark_accept".
func writeSysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	err := os.WriteFile(path, []byte(value), 0)
	if errors.Is(err, unix.EROFS) {
		// Container runtimes show settings read-only; with CAP_SYS_ADMIN that can be changed, for this container alone.
		const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("", "/proc/sys", "", flags, ""); err != nil {
			return fmt.Errorf("sysctl net/%s: /proc/sys is read-only, and cannot be made writable: %w; does the container have CAP_SYS_ADMIN, and no AppArmor profile?", name, err)
		}
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("sysctl net/%s: %w", name, err)
	}
	return nil
}
