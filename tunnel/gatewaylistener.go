package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// GatewayPortFile holds, in the run directory, the port on which weft tunnel takes the connections of Gateways. Each process
// takes the one of the process before it, so that Envoy need not hear of another one.
const GatewayPortFile = "tunnel-gateways.port"

// listenOnLoopback listens on all of 127.0.0.0/8: Envoy takes endpoints of one address for the same one, so each endpoint has
// an address of its own there.
func listenOnLoopback(portFile string) (fd int, port uint16, err error) {
	if before := readPort(portFile); before != 0 {
		if fd, port, err = listenOnLoopbackAt(before); err == nil {
			return fd, port, nil
		}
	}
	if fd, port, err = listenOnLoopbackAt(0); err != nil {
		return 0, 0, err
	}
	if err := atomicfile.Write(portFile, []byte(strconv.Itoa(int(port))), 0o600); err != nil {
		_ = unix.Close(fd)
		return 0, 0, err
	}
	return fd, port, nil
}

// LastPort returns the port on which a weft tunnel with this run directory took the connections of Envoy; 0 if there was none.
func LastPort(runDir string) uint16 { return readPort(filepath.Join(runDir, GatewayPortFile)) }

func readPort(file string) uint16 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// listenOnLoopbackAt listens at a port, 0 for any. The interface keeps other hosts out, for the address does not.
func listenOnLoopbackAt(port uint16) (fd int, at uint16, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"); err != nil {
		return 0, 0, fmt.Errorf("bind to the interface lo: %w", err)
	}
	if err = listen(fd, netip.AddrPortFrom(netip.IPv4Unspecified(), port)); err != nil {
		return 0, 0, fmt.Errorf("port %d: %w", port, err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, err
	}
	return fd, addrPort(own).Port(), nil
}

var (
	errStranger    = errors.New("it is not Envoy's")
	errNotLoopback = errors.New("it was made to another address than a loopback address")
)

// own tells sockets of this process's cgroup, where Envoy is, from those of others.
type own struct {
	loopback uint32        // index of the interface that the listener is bound to
	cgroup   atomic.Uint64 // of what the listener accepts; 0 until the first connection
}

func newOwn() (*own, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, err
	}
	return &own{loopback: uint32(lo.Index)}, nil
}

// peer fails unless a connection was made to a loopback address, by a socket of this process's cgroup.
//
// The cgroup is not enough: Envoy passes the bytes of a Gateway's client to any endpoint that a tenant names. The address of a
// Gateway is one of the interface lo too, and can be an endpoint. A loopback address cannot (model.IsRoutable), so that Envoy
// connects to one only as the agent says.
func (o *own) peer(c *socket, peer netip.AddrPort) error {
	var local unix.Sockaddr
	err := os.ErrClosed
	c.control(func(fd int) { local, err = unix.Getsockname(fd) })
	if err != nil {
		return err
	}
	if !addrPort(local).Addr().IsLoopback() {
		return errNotLoopback
	}
	ours := o.cgroup.Load()
	if ours == 0 {
		if ours, err = (&socketRequest{addrPort(local), peer, o.loopback}).cgroup(); err != nil {
			return err
		}
		o.cgroup.Store(ours)
	}
	theirs, err := (&socketRequest{peer, addrPort(local), 0}).cgroup()
	if err != nil {
		return err
	}
	if ours != theirs {
		return errStranger
	}
	return nil
}
