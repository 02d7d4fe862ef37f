package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h.
const (
	inetDiagRequestLen = 56 // struct inet_diag_req_v2
	inetDiagMessageLen = 72 // struct inet_diag_msg
	inetDiagCgroupID   = 21 // INET_DIAG_CGROUP_ID, since Linux 5.8
)

// socketRequest asks sock_diag for a TCP socket of IPv4 by its addresses, and the interface that it is bound to, 0 for none.
type socketRequest struct {
	local, remote netip.AddrPort
	device        uint32
}

func (r *socketRequest) Len() int { return inetDiagRequestLen }

func (r *socketRequest) Serialize() []byte {
	b := make([]byte, inetDiagRequestLen)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(b[8:], r.local.Port())
	binary.BigEndian.PutUint16(b[10:], r.remote.Port())
	copy(b[12:], r.local.Addr().AsSlice())
	copy(b[28:], r.remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(b[44:], r.device)
	binary.NativeEndian.PutUint64(b[48:], ^uint64(0)) // whatever its cookie
	return b
}

// cgroup returns the cgroup in which the socket was made. It is one of this network namespace.
func (r *socketRequest) cgroup() (uint64, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.AddData(r)
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return 0, fmt.Errorf("look for the socket %s - %s: %w", r.local, r.remote, err)
	}
	for _, m := range answers {
		if len(m) < inetDiagMessageLen {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[inetDiagMessageLen:])
		if err != nil {
			return 0, err
		}
		for _, a := range attrs {
			if a.Attr.Type == inetDiagCgroupID && len(a.Value) == 8 {
				return binary.NativeEndian.Uint64(a.Value), nil
			}
		}
	}
	return 0, errors.New("the kernel does not say in which cgroup a socket was made")
}
