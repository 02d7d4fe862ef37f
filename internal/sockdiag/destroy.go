package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Destroy ends sockets at once (SOCK_DESTROY): both ends of a connection see a reset. A UDP socket gets ECONNABORTED and has no
// peer any more. Destroy returns how many of the sockets were there. A kernel without CONFIG_INET_DIAG_DESTROY gives
// EOPNOTSUPP, or says that no socket was there.
func Destroy(sockets []Socket) (int, error) {
	var errs []error
	n := 0
	for _, s := range sockets {
		req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		req.AddData((*request)(&s))
		_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.ENOENT): // gone meanwhile
		case errors.Is(err, unix.EOPNOTSUPP):
			return n, fmt.Errorf("close connections: the kernel lacks CONFIG_INET_DIAG_DESTROY: %w", err)
		default:
			errs = append(errs, fmt.Errorf("close the connection %s - %s: %w", s.Local, s.Remote, err))
		}
	}
	return n, errors.Join(errs...)
}

// request is struct inet_diag_req_v2 of linux/inet_diag.h. The cookie makes sure that no other socket is hit that got the same
// addresses meanwhile.
type request Socket

const requestLen = 56

func (r *request) Len() int { return requestLen }

func (r *request) Serialize() []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = r.Family, r.Protocol
	binary.NativeEndian.PutUint32(b[4:], 1<<r.State)
	binary.BigEndian.PutUint16(b[8:], r.Local.Port())
	binary.BigEndian.PutUint16(b[10:], r.Remote.Port())
	if r.Family == unix.AF_INET {
		copy(b[12:], r.Local.Addr().AsSlice())
		copy(b[28:], r.Remote.Addr().AsSlice())
	} else {
		local, remote := r.Local.Addr().As16(), r.Remote.Addr().As16()
		copy(b[12:], local[:])
		copy(b[28:], remote[:])
	}
	binary.NativeEndian.PutUint32(b[44:], r.Device)
	binary.NativeEndian.PutUint32(b[48:], uint32(r.Cookie))
	binary.NativeEndian.PutUint32(b[52:], uint32(r.Cookie>>32))
	return b
}
