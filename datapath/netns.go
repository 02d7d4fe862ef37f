package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Envoy keeps the client's address on its connections to the workload and marks them with 1337. The workload's answers
// carry the mark of what they answer (tcp_fwmark_accept), and so do the resets with which the kernel answers for a port
// where nobody listens (fwmark_reflect): without it Envoy would wait for its connect timeout, and the client would get
// a reset that is not for it. The rule leads all of them to the local table, hence to Envoy.
const (
	proxyMark  = 1337
	proxyTable = 100
	// rulePriority is below that of the main table, and tells our rule from others with the same mark.
	rulePriority = 1337
)

// enter runs f on a thread that is in the network namespace of fd. What f starts elsewhere is not in it.
func enter(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		defer own.Close()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		err = f()
		if netns.Set(own) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

// openNamespace opens a namespace by path. A path that is there but is no namespace (a name that was made and not yet
// mounted, or was unmounted and not yet removed) counts as missing.
func openNamespace(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.NSFS_MAGIC && st.Type != unix.PROC_SUPER_MAGIC {
		f.Close()
		return nil, fmt.Errorf("%s is no network namespace: %w", path, os.ErrNotExist)
	}
	return f, nil
}

// netnsCookie asks a socket made in the namespace (SO_NETNS_COOKIE, Linux 5.14).
func netnsCookie(fd int) (uint64, error) {
	var cookie uint64
	err := enter(fd, func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer func() { _ = unix.Close(s) }()
		cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil {
			return fmt.Errorf("SO_NETNS_COOKIE: %w", err)
		}
		return nil
	})
	return cookie, err
}

// routeMarked sets up what Envoy's original_src needs, in the calling thread's namespace. It may be called again.
func routeMarked() error {
	if err := markSysctls("1"); err != nil {
		return err
	}
	for _, family := range families() {
		if err := netlink.RuleAdd(markRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("ip rule fwmark %d (family %d): %w", proxyMark, family, err)
		}
		if err := netlink.RouteReplace(localRoute(family)); err != nil {
			return fmt.Errorf("local route in table %d (family %d): %w", proxyTable, family, err)
		}
	}
	return nil
}

// unrouteMarked undoes routeMarked.
func unrouteMarked() error {
	var errs []error
	for _, family := range families() {
		if err := netlink.RuleDel(markRule(family)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove ip rule fwmark %d: %w", proxyMark, err))
		}
		if err := netlink.RouteDel(localRoute(family)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the local route of table %d: %w", proxyTable, err))
		}
	}
	return errors.Join(append(errs, markSysctls("0"))...)
}

// markSysctls are of the calling thread's namespace. tcp_fwmark_accept holds for both families.
func markSysctls(value string) error {
	names := []string{"ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect"}
	if len(families()) > 1 {
		names = append(names, "ipv6/fwmark_reflect")
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, writeSysctl(name, value))
	}
	return errors.Join(errs...)
}

// families leaves IPv6 out where the kernel has none.
func families() []int {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []int{unix.AF_INET}
	}
	return []int{unix.AF_INET, unix.AF_INET6}
}

func markRule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Mark, r.Table, r.Priority = family, proxyMark, proxyTable, rulePriority
	return r
}

func localRoute(family int) *netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		LinkIndex: loopbackIndex, Dst: all, Table: proxyTable, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Family: family,
	}
}

// loopbackIndex is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1
