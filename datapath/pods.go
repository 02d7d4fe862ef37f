package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/setns"
	"github.com/weft-mesh/weft/internal/sockdiag"
)

// kernelNamespaces are the real ones. Each has the inbound program by a link that is pinned under its cookie, so that
// it outlives the agent.
type kernelNamespaces struct {
	log       *slog.Logger
	dir       string // of pins
	load      func(cookie uint64) (*ebpf.Program, error)
	inbound   inboundProgram
	datagrams *datagramFinder
	// findListeners records Envoy's sockets in a namespace; nil if all are known since they listen.
	findListeners func(netns int, cookie uint64) error
}

func (k *kernelNamespaces) pin(cookie uint64) string {
	return filepath.Join(k.dir, strconv.FormatUint(cookie, 16))
}

func (k *kernelNamespaces) Open(path string) (namespace, error) {
	f, err := openNamespace(path)
	if err != nil {
		return nil, err
	}
	cookie, err := netnsCookie(int(f.Fd()))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace %s: %w", path, err), f.Close())
	}
	return &kernelNamespace{k: k, path: path, file: f, inode: st.Ino, cookie: cookie}, nil
}

func (k *kernelNamespaces) Left(cookie uint64, path string) error {
	ns, err := k.Open(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil || ns.Cookie() != cookie {
		if err == nil {
			err = ns.Close()
		} else {
			err = nil
		}
		return errors.Join(err, unpinLink(k.pin(cookie)))
	}
	return errors.Join(ns.Detach(false), ns.Close())
}

type kernelNamespace struct {
	k      *kernelNamespaces
	path   string
	file   *os.File // keeps the namespace, so that its sockets can be reached when its name is gone
	inode  uint64
	cookie uint64
	link   *heldLink // of sk_lookup; nil until this agent attached it
}

func (n *kernelNamespace) Cookie() uint64 { return n.cookie }

func (n *kernelNamespace) Same() bool {
	a, err := n.file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(n.path)
	return err == nil && os.SameFile(a, b)
}

func (n *kernelNamespace) fd() int { return int(n.file.Fd()) }

func (n *kernelNamespace) Joined() bool {
	_, err := os.Stat(n.k.pin(n.cookie))
	return err == nil
}

func (n *kernelNamespace) Attach(retain bool) error {
	if n.link != nil || retain && n.Joined() {
		return nil
	}
	if n.k.findListeners == nil {
		if n.link = n.inherited(); n.link != nil {
			return nil
		}
	}
	prog, err := n.k.load(n.cookie)
	if err != nil {
		return err
	}
	defer func() { _ = prog.Close() }()
	if err := n.k.inbound.learn(prog); err != nil {
		return err
	}
	found := n.findListeners()
	held, err := n.attach(prog)
	if err != nil {
		return errors.Join(err, found)
	}
	if found != nil {
		return errors.Join(found, held.close()) // it is pinned; the next try takes it over
	}
	n.link = held
	return nil
}

func (n *kernelNamespace) Check() (r repair, attached bool) {
	if n.link == nil {
		return repair{}, false
	}
	var loaded *ebpf.Program
	defer func() {
		if loaded != nil {
			_ = loaded.Close()
		}
	}()
	return n.link.check(n.inode, func() (p *ebpf.Program, err error) {
		loaded, err = n.k.load(n.cookie)
		return loaded, err
	}, n.newLink), true
}

func (n *kernelNamespace) Route(ipv6 bool) error {
	return setns.Network.Do(n.fd(), func() error { return routeMarked(ipv6) })
}

// findListeners records the sockets on which Envoy listens already.
func (n *kernelNamespace) findListeners() error {
	if n.k.findListeners == nil {
		return nil
	}
	err := n.k.findListeners(n.fd(), n.cookie)
	if errors.Is(err, ebpf.ErrNotSupported) {
		n.k.log.Warn("Envoy's sockets cannot be found, for the kernel has no BTF: authenticated connections are refused until it listens again",
			"netns", n.path, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("find Envoy's sockets, without which authenticated connections are refused until it listens again: %w", err)
	}
	return nil
}

// attach replaces the program of an earlier agent's link, or makes a new link.
func (n *kernelNamespace) attach(prog *ebpf.Program) (*heldLink, error) {
	pin := n.k.pin(n.cookie)
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		if err := l.Update(prog); err != nil { // its namespace is gone
			if err := errors.Join(l.Unpin(), l.Close()); err != nil {
				return nil, fmt.Errorf("remove the link %s: %w", pin, err)
			}
			l = nil
		}
	}
	if l == nil {
		if l, err = n.newLink(prog); err != nil {
			return nil, err
		}
	}
	held, err := holdLink(l, prog, pin)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return held, nil
}

// newLink attaches the program and pins the link.
func (n *kernelNamespace) newLink(prog *ebpf.Program) (link.Link, error) {
	l, err := link.AttachNetNs(n.fd(), prog)
	if err != nil {
		return nil, fmt.Errorf("attach sk_lookup to the network namespace %s: %w", n.path, err)
	}
	if err := l.Pin(n.k.pin(n.cookie)); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the sk_lookup link of %s: %w", n.path, err), l.Close())
	}
	return l, nil
}

func (n *kernelNamespace) Detach(dead bool) error {
	if n.link != nil {
		_ = n.link.link.Detach() // its pin may be gone
	}
	err := errors.Join(unpinLink(n.k.pin(n.cookie)), n.link.close())
	n.link = nil
	return errors.Join(err, setns.Network.Do(n.fd(), func() error {
		all, err := sockdiag.TCP()
		if err != nil {
			return err
		}
		var end []sockdiag.Socket
		for _, s := range all {
			if s.Live() && (dead || proxied(s)) {
				end = append(end, s)
			}
		}
		_, err = sockdiag.Destroy(end)
		return errors.Join(err, unrouteMarked())
	}))
}

func (n *kernelNamespace) CloseConnections(end func(local, remote netip.AddrPort) bool) (int, error) {
	count := 0
	err := setns.Network.Do(n.fd(), func() error {
		picked, err := pickInbound(end)
		if err != nil || len(picked) == 0 {
			return err
		}
		// A list is no snapshot. Of a connection inside of the pod that was made meanwhile it may hold one end. The next
		// list holds both.
		again, err := pickInbound(end)
		if err != nil {
			return err
		}
		if picked = inBoth(picked, again); len(picked) == 0 {
			return nil
		}
		count, err = sockdiag.Destroy(picked)
		return errors.Join(err, destroyed(picked))
	})
	return count, err
}

// pickInbound lists the inbound connections of the calling thread's network namespace whose ends are picked.
func pickInbound(end func(local, remote netip.AddrPort) bool) ([]sockdiag.Socket, error) {
	all, err := sockdiag.TCP()
	if err != nil {
		return nil, err
	}
	ephemeral, err := ephemeralPorts()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(inbound(all, ephemeral), func(s sockdiag.Socket) bool { return !end(s.Local, s.Remote) }), nil
}

// inBoth returns the sockets of a list that are in another one too.
func inBoth(list, other []sockdiag.Socket) []sockdiag.Socket {
	there := map[uint64]bool{}
	for _, s := range other {
		there[s.Cookie] = true
	}
	return slices.DeleteFunc(list, func(s sockdiag.Socket) bool { return !there[s.Cookie] })
}

// destroyed looks whether sockets have ended. A kernel that cannot destroy sockets may say that they are not there.
func destroyed(picked []sockdiag.Socket) error {
	all, err := sockdiag.TCP()
	if err != nil {
		return err
	}
	alive := map[uint64]bool{}
	for _, s := range all {
		if s.Live() {
			alive[s.Cookie] = true
		}
	}
	left := 0
	for _, s := range picked {
		if alive[s.Cookie] {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d of %d connections live on after SOCK_DESTROY", left, len(picked))
	}
	return nil
}

func (k *kernelNamespaces) Datagrams(in []namespace) ([]datagram, error) {
	opened := make([]*kernelNamespace, len(in))
	for i, n := range in {
		opened[i] = n.(*kernelNamespace)
	}
	return k.datagrams.find(opened)
}

// EndDatagrams looks whether the sockets have ended: a kernel that cannot destroy sockets may say that they are not there.
func (n *kernelNamespace) EndDatagrams(end []datagram) error {
	sockets := make([]sockdiag.Socket, len(end))
	for i, d := range end {
		sockets[i] = d.socket
	}
	err := setns.Network.Do(n.fd(), func() error {
		_, err := sockdiag.Destroy(sockets)
		return err
	})
	now, lerr := n.k.Datagrams([]namespace{n})
	left := slices.DeleteFunc(now, func(d datagram) bool {
		return !slices.ContainsFunc(end, func(e datagram) bool { return e.same(d) })
	})
	if len(left) > 0 {
		lerr = fmt.Errorf("%d of %d UDP sockets keep a backend that is gone after SOCK_DESTROY", len(left), len(end))
	}
	return errors.Join(err, lerr)
}

func (n *kernelNamespace) Close() error {
	return errors.Join(n.link.close(), n.file.Close())
}

// unpinLink detaches a pinned link now: the kernel would do it some time after the last reference went. A link whose
// target is gone is detached already.
func unpinLink(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the link %s: %w", pin, err)
	}
	_ = l.Detach()
	if err := errors.Join(l.Unpin(), l.Close()); err != nil {
		return fmt.Errorf("remove the link %s: %w", pin, err)
	}
	return nil
}
