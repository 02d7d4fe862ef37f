//go:build cluster

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bridge is this machine's link to the cluster.
const bridge = "wcl-br"

// whoHas asks by ARP for an address on this machine's link to the cluster (RFC 826), and gives the hardware addresses of
// all that answer within a second.
func whoHas(t *testing.T, address string) []string {
	t.Helper()
	link, err := net.InterfaceByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index}
	if err := unix.Bind(fd, to); err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddr(address).As4()
	if err := unix.Sendto(fd, arpRequest(link.HardwareAddr, target), 0, to); err != nil {
		t.Fatal(err)
	}
	var out []string
	buf := make([]byte, 128)
	for began := time.Now(); time.Since(began) < time.Second; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil || n < 42 {
			continue // nothing came within the time to wait
		}
		reply := buf[20] == 0 && buf[21] == 2
		if mac := net.HardwareAddr(buf[22:28]).String(); reply && bytes.Equal(buf[28:32], target[:]) && !slices.Contains(out, mac) {
			out = append(out, mac)
		}
	}
	return out
}

// arpRequest is an Ethernet frame to all, from an address of this machine.
func arpRequest(from net.HardwareAddr, target [4]byte) []byte {
	f := bytes.Repeat([]byte{0xff}, 6)
	f = append(f, from...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	f = append(f, from...)
	f = append(f, 10, 89, 0, 1)
	f = append(f, make([]byte, 6)...)
	return append(f, target[:]...)
}

// ownerOf names the node that answers for an address, and fails if not exactly one does.
func ownerOf(t *testing.T, address string) string {
	t.Helper()
	owner := ""
	eventually(t, settle, func() error {
		macs := whoHas(t, address)
		if len(macs) != 1 {
			return fmt.Errorf("by ARP %s is at %q, want exactly one node", address, macs)
		}
		for _, n := range mesh.Nodes() {
			if macOf(t, n) == macs[0] {
				owner = n
				return nil
			}
		}
		return fmt.Errorf("by ARP %s is at %q, want exactly one node", address, macs)
	})
	return owner
}

// macOf gives the hardware address of a node's link. A node's /sys is the machine's, with the machine's links.
func macOf(t *testing.T, node string) string {
	t.Helper()
	link := strings.Fields(onMachine(t, node, "", "ip", "-br", "link", "show", "eth0"))
	if len(link) < 3 {
		t.Fatalf("the link of %s: %q", node, link)
	}
	return link[2]
}
