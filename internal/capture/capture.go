// Package capture reads the packets that pass a network link, to show what is on the wire between two pods. It needs
// CAP_NET_RAW.
package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxBytes  = 64 << 20 // of payload kept by one capture
	maxPacket = 1 << 18  // segmentation offload makes packets bigger than the link's MTU
	readWait  = 100 * time.Millisecond
)

// Capture is a running capture of one link.
type Capture struct {
	fd   int
	stop chan struct{}
	done chan struct{}
	out  *Traffic
	err  error
}

// Start begins to capture all that passes a link of the calling thread's network namespace, in both directions. End
// it with Stop.
func Start(link string) (*Capture, error) {
	ifc, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", link, err)
	}
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // no protocol: nothing arrives before bind
	if err != nil {
		return nil, fmt.Errorf("capture on %s: packet socket (CAP_NET_RAW is needed): %w", link, err)
	}
	wait := unix.NsecToTimeval(int64(readWait))
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifc.Index}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("capture on %s: %w", link, err)
	}
	c := &Capture{fd: fd, stop: make(chan struct{}), done: make(chan struct{}), out: newTraffic()}
	go c.read()
	return c, nil
}

func (c *Capture) read() {
	defer close(c.done)
	buf := make([]byte, maxPacket)
	for stopping := false; ; {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		switch {
		case err == nil:
			c.out.add(buf[:n])
			continue // what had arrived before Stop is read to its end
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			c.err = err
			return
		case stopping:
			return
		}
		select {
		case <-c.stop:
			stopping = true
		default:
		}
	}
}

// Stop ends the capture and gives what it saw. It fails if packets were missed: then the capture proves nothing.
func (c *Capture) Stop() (*Traffic, error) {
	close(c.stop)
	<-c.done
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	_ = unix.Close(c.fd)
	if err = errors.Join(c.err, err); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	if stats.Drops > 0 {
		return nil, fmt.Errorf("capture: the kernel dropped %d of %d packets: less load, please", stats.Drops, stats.Packets)
	}
	if c.out.truncated {
		return nil, fmt.Errorf("capture: more than %d MB", maxBytes>>20)
	}
	return c.out, nil
}
