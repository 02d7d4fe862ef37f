package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weft-mesh/weft/internal/setns"
)

// Pod is a network namespace with addresses and a cgroup.
type Pod struct {
	Name      string
	NetNSName string // what the annotation weft.io/netns takes
	NetNS     string // /run/netns/NetNSName
	Cgroup    string // below the cgroup2 mount, what the annotation weft.io/cgroup takes
	Address   netip.Addr
	Address6  netip.Addr
	HostLink  string // the host's end of the pod's veth

	lab *Lab
}

// AddPod makes a pod with the next free addresses.
func (l *Lab) AddPod(name string) (*Pod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.nextPod(name)
	if err != nil {
		return nil, err
	}
	if err := p.create(); err != nil {
		return nil, err
	}
	return p, nil
}

func (l *Lab) nextPod(name string) (*Pod, error) {
	n := l.next
	l.next++
	p := &Pod{
		Name: name, NetNSName: l.Prefix + "-" + name, NetNS: "/run/netns/" + l.Prefix + "-" + name,
		Cgroup: l.Prefix + "/" + name, HostLink: fmt.Sprintf("%s.%d", l.Prefix, n),
		Address: nth(l.subnet, n), Address6: nth(l.subnet6, n), lab: l,
	}
	if !l.subnet.Contains(p.Address) {
		return nil, fmt.Errorf("pod %s: subnet %s is full", name, l.subnet)
	}
	return p, nil
}

// Recreate makes a pod that was removed again, with the name and the addresses that it had, in a new namespace.
func (p *Pod) Recreate() error {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	return p.create()
}

func (p *Pod) create() error {
	if err := os.MkdirAll(filepath.Join(p.lab.cgroupRoot, p.Cgroup), 0o755); err != nil {
		return fmt.Errorf("cgroup of pod %s: %w", p.Name, err)
	}
	if err := newNamespace(p.NetNSName); err != nil {
		return fmt.Errorf("namespace of pod %s: %w", p.Name, err)
	}
	if err := p.connect(); err != nil {
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
	p.lab.pods = append(p.lab.pods, p)
	return nil
}

func newNamespace(name string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := netns.NewNamed(name)
		if err == nil {
			err = h.Close()
		}
		done <- err
	}()
	return <-done
}

func (p *Pod) connect() error {
	br, err := netlink.LinkByName(p.lab.Bridge())
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: p.HostLink, MasterIndex: br.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(ns)),
		// By the address: who knew the pod before finds it again when it was made anew.
		PeerHardwareAddr: append(net.HardwareAddr{0x02, 0x77}, p.Address.AsSlice()...),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("veth up: %w", err)
	}
	return p.Do(p.configure)
}

func (p *Pod) configure() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for addr, bits := range map[netip.Addr]int{p.Address: p.lab.subnet.Bits(), p.Address6: 64} {
		if err := addAddr(eth, addr, bits); err != nil {
			return err
		}
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(eth)); err != nil {
		return err
	}
	for _, gw := range []netip.Addr{p.lab.Gateway, p.lab.Gateway6} {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IP(gw.AsSlice())}); err != nil {
			return fmt.Errorf("default route by %s: %w", gw, err)
		}
	}
	return nil
}

// Do runs f on a thread that is in the pod's network namespace. Goroutines that f starts are not.
func (p *Pod) Do(f func() error) error {
	if err := setns.Network.DoAt(p.NetNS, f); err != nil {
		return fmt.Errorf("pod %s: %w", p.Name, err)
	}
	return nil
}

// Start starts a process in the pod's network namespace and cgroup, from its first instruction on.
func (p *Pod) Start(cmd *exec.Cmd) error {
	cg, err := os.Open(filepath.Join(p.lab.cgroupRoot, p.Cgroup))
	if err != nil {
		return fmt.Errorf("cgroup of pod %s: %w", p.Name, err)
	}
	defer cg.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cg.Fd())
	return p.Do(cmd.Start)
}

// Dial connects from the pod's namespace by IP address; names are not resolved there.
func (p *Pod) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var c net.Conn
	err := p.Do(func() (err error) {
		c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens in the pod's namespace.
func (p *Pod) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := p.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Remove takes the pod away: processes, namespace, links, cgroup.
func (p *Pod) Remove() error {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	for i, q := range p.lab.pods {
		if q == p {
			p.lab.pods = append(p.lab.pods[:i], p.lab.pods[i+1:]...)
			break
		}
	}
	err := removeCgroup(filepath.Join(p.lab.cgroupRoot, p.Cgroup))
	if link, lerr := netlink.LinkByName(p.HostLink); lerr == nil {
		err = errors.Join(err, netlink.LinkDel(link))
	}
	return errors.Join(err, netns.DeleteNamed(p.NetNSName))
}
