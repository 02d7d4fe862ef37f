package datapath

import (
	"fmt"
	"io"
	"sync"
	"weak"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/setns"
)

// kernelTypes is the decoded BTF of the running kernel. Decoding it takes some 20 ms and 2 MB, and it is needed once for
// each pod that joins at a first start, so it is kept until the next garbage collection.
var kernelTypes struct {
	mu   sync.Mutex
	kept weak.Pointer[btf.Cache]
}

func cachedKernelTypes() *btf.Cache {
	kernelTypes.mu.Lock()
	defer kernelTypes.mu.Unlock()
	c := kernelTypes.kept.Value()
	if c == nil {
		c = btf.NewCache()
		kernelTypes.kept = weak.Make(c)
	}
	return c
}

// findListeners records the sockets on which Envoy listens already in a network namespace, given by descriptor and
// cookie. proxyCgroup is the directory of Envoy's cgroup.
func findListeners(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, proxyCgroup string, netns int, cookie uint64) error {
	var cgroup unix.Stat_t
	if err := unix.Stat(proxyCgroup, &cgroup); err != nil {
		return fmt.Errorf("cgroup of the proxy: %w", err)
	}
	prog, err := loadOne(spec, maps, weftProgFindListeners, map[string]uint64{weftVarOwnNetns: cookie, weftVarProxyCgroup: cgroup.Ino}, cachedKernelTypes())
	if err != nil {
		return err
	}
	defer func() { _ = prog.Close() }()
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("iterate over TCP sockets: %w", err)
	}
	defer func() { _ = it.Close() }()
	return setns.Network.Do(netns, func() error { // the iterator goes over the namespace that it is opened in
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
