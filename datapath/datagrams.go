package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/setns"
	"github.com/weft-mesh/weft/internal/sockdiag"
)

// datagram is a UDP socket that connect() led to a Service's backend.
type datagram struct {
	netns            uint64 // cookie of the network namespace
	service, backend netip.AddrPort
	socket           sockdiag.Socket
}

// same reports whether d and e are one socket with one peer.
func (d datagram) same(e datagram) bool {
	return d.backend == e.backend && d.socket.Cookie == e.socket.Cookie
}

// datagramFinder lists the datagram sockets of network namespaces by an iterator (bpf/datagrams.h). One over the storage of
// all sockets would tell those of the machine at once, but kernels may refuse iterators that are bound to a map.
type datagramFinder struct {
	log   *slog.Logger
	spec  *ebpf.CollectionSpec
	maps  map[string]*ebpf.Map
	lacks bool // the kernel has no BTF
}

// find walks over the UDP sockets of namespaces.
func (f *datagramFinder) find(in []*kernelNamespace) ([]datagram, error) {
	if f.lacks {
		return nil, nil
	}
	out, err := f.walk(in)
	if errors.Is(err, ebpf.ErrNotSupported) {
		f.lacks = true
		f.log.Warn("connected UDP sockets keep a backend that is gone: the kernel has no BTF, so they cannot be found", "error", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find connected UDP sockets: %w", err)
	}
	return out, nil
}

func (f *datagramFinder) walk(in []*kernelNamespace) ([]datagram, error) {
	prog, err := loadOne(f.spec, f.maps, weftProgFindDatagrams, nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = prog.Close() }()
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return nil, err
	}
	defer func() { _ = it.Close() }()
	var out []datagram
	for _, n := range in {
		raw, err := n.iterate(it)
		if err != nil {
			return nil, fmt.Errorf("network namespace %s: %w", n.path, err)
		}
		found, err := parseDatagrams(n.cookie, raw)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// iterate returns what an iterator says of the namespace.
func (n *kernelNamespace) iterate(it *link.Iter) (text []byte, err error) {
	err = setns.Network.Do(n.fd(), func() error { // it goes over the namespace that it is opened in
		r, err := it.Open()
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		text, err = io.ReadAll(r)
		return err
	})
	return text, err
}

func parseDatagrams(netns uint64, raw []byte) ([]datagram, error) {
	found := make([]weftDatagram, len(raw)/binary.Size(weftDatagram{}))
	if err := binary.Read(bytes.NewReader(raw), binary.NativeEndian, found); err != nil {
		return nil, err
	}
	out := make([]datagram, len(found))
	for i, d := range found {
		backend := decode(d.Backend)
		out[i] = datagram{
			netns: netns, service: decode(d.Service), backend: backend,
			socket: udpSocketOf(uint8(d.Family), decode(d.Local), backend, d.Socket, d.Device),
		}
	}
	return out, nil
}

// udpSocketOf describes a connected UDP socket to sock_diag. device is the index of the one that it is bound to, 0 for none.
func udpSocketOf(family uint8, local, remote netip.AddrPort, cookie uint64, device uint32) sockdiag.Socket {
	return sockdiag.Socket{
		Protocol: unix.IPPROTO_UDP, Family: family, Local: local, Remote: remote, State: sockdiag.Established,
		Cookie: cookie, Device: device,
	}
}
