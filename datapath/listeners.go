package datapath

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// findListeners records the sockets on which Envoy listens already in a network namespace, given by descriptor and
// cookie. proxyCgroup is the directory of Envoy's cgroup.
func findListeners(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, proxyCgroup string, netns int, cookie uint64) error {
	var cgroup unix.Stat_t
	if err := unix.Stat(proxyCgroup, &cgroup); err != nil {
		return fmt.Errorf("cgroup of the proxy: %w", err)
	}
	prog, err := loadOne(spec, maps, weftProgFindListeners, map[string]uint64{weftVarOwnNetns: cookie, weftVarProxyCgroup: cgroup.Ino})
	if err != nil {
		return err
	}
	defer func() { _ = prog.Close() }()
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("iterate over TCP sockets: %w", err)
	}
	defer func() { _ = it.Close() }()
	return enter(netns, func() error { // the iterator goes over the namespace that it is opened in
		sockets, err := it.Open()
		if err != nil {
			return fmt.Errorf("iterate over TCP sockets: %w", err)
		}
		defer func() { _ = sockets.Close() }()
		if _, err := io.Copy(io.Discard, sockets); err != nil {
			return fmt.Errorf("iterate over TCP sockets: %w", err)
		}
		return nil
	})
}
