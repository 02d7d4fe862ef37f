package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/setns"
)

// Envoy keeps the client's address on its connections to the workload and marks them. The workload's answers
// carry the mark of what they answer (tcp_fwmark_accept), and so do the resets with which the kernel answers for a port
// where nobody listens (fwmark_reflect): without it Envoy would wait for its connect timeout, and the client would get
// a reset that is not for it. The rule leads all of them to the local table, hence to Envoy.
const (
	proxyMark  = model.ProxyMark
	proxyTable = 100
	// rulePriority is below that of the main table, and tells our rule from others with the same mark.
	rulePriority = 1337
)

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
	err := setns.Network.Do(fd, func() (err error) {
		cookie, err = ownNetnsCookie()
		return err
	})
	return cookie, err
}

// ownNetnsCookie is that of the calling thread's namespace.
func ownNetnsCookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("SO_NETNS_COOKIE: %w", err)
	}
	return cookie, nil
}

// routeMarked sets up what Envoy's original_src needs, in the calling thread's namespace. needIPv6 says that the workload
// has an IPv6 address. It may be called again.
func routeMarked(needIPv6 bool) error {
	on, err := namespaceFamilies()
	if err != nil {
		return err
	}
	errs := []error{markSysctls("1")}
	for _, family := range on {
		if err := netlink.RuleAdd(markRule(family)); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("ip rule fwmark %d (family %d): %w", proxyMark, family, err))
		}
		if err := netlink.RouteReplace(localRoute(family)); err != nil {
			errs = append(errs, fmt.Errorf("local route in table %d (family %d): %w", proxyTable, family, err))
		}
	}
	if needIPv6 && !slices.Contains(on, unix.AF_INET6) {
		errs = append(errs, errors.New("the pod has an IPv6 address, but IPv6 is off on lo of its network namespace, "+
			"so its proxy does not reach it by IPv6: set net.ipv6.conf.lo.disable_ipv6=0"))
	}
	return errors.Join(errs...)
}

// unrouteMarked undoes routeMarked. The rule for IPv6 stays when IPv6 is turned off later, so both are looked for.
func unrouteMarked() error {
	errs := []error{markSysctls("0")}
	for _, family := range families() {
		if err := netlink.RuleDel(markRule(family)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove ip rule fwmark %d (family %d): %w", proxyMark, family, err))
		}
		if err := netlink.RouteDel(localRoute(family)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the local route of table %d (family %d): %w", proxyTable, family, err))
		}
	}
	return errors.Join(errs...)
}

// markSysctls writes settings of the calling thread's namespace. tcp_fwmark_accept holds for both families.
func markSysctls(value string) error {
	names := []string{"ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect"}
	if slices.Contains(families(), unix.AF_INET6) {
		names = append(names, "ipv6/fwmark_reflect")
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, writeSysctl(name, value))
	}
	return errors.Join(errs...)
}

// families lists the address families that the kernel has.
func families() []int {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []int{unix.AF_INET}
	}
	return []int{unix.AF_INET, unix.AF_INET6}
}

// namespaceFamilies lists the address families that the loopback interface of the calling thread's namespace takes addresses and
// routes of. A namespace without IPv6 is nothing unusual.
func namespaceFamilies() ([]int, error) {
	all := families()
	if len(all) == 1 {
		return all, nil
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	if err != nil {
		return nil, fmt.Errorf("see whether IPv6 is on: %w", err)
	}
	if strings.TrimSpace(string(off)) != "0" {
		return all[:1], nil
	}
	return all, nil
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
