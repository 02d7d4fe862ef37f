// Package lab makes pods without Kubernetes: network namespaces on a bridge, a cgroup each, and processes in them.
// The demo, the benchmarks and the privileged tests run on it. It needs root.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Lab is a bridge with pods on it. The host has the first address of its subnets and can reach every pod.
type Lab struct {
	Prefix          string
	Gateway         netip.Addr
	Gateway6        netip.Addr
	subnet, subnet6 netip.Prefix
	cgroupRoot      string

	mu   sync.Mutex
	pods []*Pod
	next int
}

// New makes the bridge. The prefix (at most 8 characters) names all that the lab makes; what an earlier lab of this
// prefix left is removed first. subnet is IPv4, at most a /16; pods get IPv6 addresses of fd77:<subnet>::/64 too.
func New(prefix string, subnet netip.Prefix) (*Lab, error) {
	l, err := plan(prefix, subnet)
	if err != nil {
		return nil, err
	}
	if err := Clean(prefix); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(l.cgroupRoot, prefix), 0o755); err != nil {
		return nil, fmt.Errorf("cgroup of lab %s: %w", prefix, err)
	}
	if err := l.bridge(); err != nil {
		return nil, errors.Join(err, Clean(prefix))
	}
	return l, nil
}

// Adopt gives the lab that another process made by New, and by AddPod for these names in this order. Nothing changes.
func Adopt(prefix string, subnet netip.Prefix, pods ...string) (*Lab, error) {
	l, err := plan(prefix, subnet)
	if err != nil {
		return nil, err
	}
	for _, name := range pods {
		p, err := l.nextPod(name)
		if err != nil {
			return nil, err
		}
		l.pods = append(l.pods, p)
	}
	return l, nil
}

func plan(prefix string, subnet netip.Prefix) (*Lab, error) {
	if len(prefix) > 8 || prefix == "" {
		return nil, fmt.Errorf("lab prefix %q: want 1 to 8 characters", prefix)
	}
	root, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	b := subnet.Masked().Addr().As4()
	p6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x77, b[0], b[1], b[2]}), 64)
	return &Lab{
		Prefix: prefix, subnet: subnet.Masked(), subnet6: p6, cgroupRoot: root, next: 2,
		Gateway: nth(subnet, 1), Gateway6: nth(p6, 1),
	}, nil
}

func (l *Lab) bridge() error {
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: l.Prefix + "-br"}}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("bridge %s: %w", br.Name, err)
	}
	for addr, bits := range map[netip.Addr]int{l.Gateway: l.subnet.Bits(), l.Gateway6: 64} {
		if err := addAddr(br, addr, bits); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return fmt.Errorf("bridge %s up: %w", br.Name, err)
	}
	return nil
}

// Pods gives the pods in the order in which they were added.
func (l *Lab) Pods() []*Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Pod(nil), l.pods...)
}

// Bridge is the name of the host's link to the pods.
func (l *Lab) Bridge() string { return l.Prefix + "-br" }

// Close ends the pods' processes and takes everything away.
func (l *Lab) Close() error { return Clean(l.Prefix) }

// Clean removes what a lab of this prefix left behind, its processes included.
func Clean(prefix string) error {
	var errs []error
	if root, err := CgroupMount(); err == nil {
		errs = append(errs, removeCgroup(filepath.Join(root, prefix)))
	}
	names, _ := filepath.Glob("/run/netns/" + prefix + "-*")
	for _, n := range names {
		if err := netns.DeleteNamed(filepath.Base(n)); err != nil {
			errs = append(errs, fmt.Errorf("network namespace %s: %w", n, err))
		}
	}
	links, err := listLinks()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, link := range links {
		if name := link.Attrs().Name; name == prefix+"-br" || strings.HasPrefix(name, prefix+".") {
			var gone netlink.LinkNotFoundError // a veth goes with its peer's namespace
			if err := netlink.LinkDel(link); err != nil && !errors.As(err, &gone) && !errors.Is(err, errNoDevice) {
				errs = append(errs, fmt.Errorf("link %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// listLinks tries again when links come and go meanwhile, for the kernel's answer may lack some then.
func listLinks() (links []netlink.Link, err error) {
	for range 10 {
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

func addAddr(link netlink.Link, addr netip.Addr, bits int) error {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}}
	if addr.Is6() {
		a.Flags = ifaFNoDAD
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address %s on %s: %w", addr, link.Attrs().Name, err)
	}
	return nil
}

func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] += byte(n)
	b[len(b)-2] += byte(n >> 8)
	a, _ := netip.AddrFromSlice(b)
	return a
}
