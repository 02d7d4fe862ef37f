package cni

import (
	"os"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/setns"
	"github.com/weft-mesh/weft/internal/sockdiag"
)

const (
	// lastBytesTimeout bounds what a peer that does not read, or that leaves its direction open, delays the end of a pod by.
	lastBytesTimeout = 2 * time.Second
	lastBytesPause   = 5 * time.Millisecond
)

// endConnections lets the last bytes of a pod leave while it has a network, and then ends its connections.
//
// The pod's processes have ended. The sockets that are left in its network namespace are those of the kernel, which sends what
// the processes wrote, and those of Envoy and weft tunnel, which may not have read it yet. Once the interface is gone, nobody
// hears of anything: a peer would wait for the rest of an answer, and would send requests on connections that lead nowhere.
func endConnections(netns string) error {
	err := setns.Network.DoAt(netns, func() error {
		for end := time.Now().Add(lastBytesTimeout); ; time.Sleep(lastBytesPause) {
			all, err := sockdiag.TCP()
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(all, unsettled) || time.Now().After(end) {
				_, err := sockdiag.Destroy(slices.DeleteFunc(all, func(s sockdiag.Socket) bool { return !s.Live() }))
				return err
			}
		}
	})
	if os.IsNotExist(err) {
		return nil // it went with the pod
	}
	return err
}

// unsettled reports whether a socket has something left to do: bytes or a FIN that its owner has not read, or its peer has not
// acknowledged.
func unsettled(s sockdiag.Socket) bool {
	switch s.State {
	case sockdiag.Established, sockdiag.FinWait2:
		return s.Unread > 0 || s.Unacknowledged > 0
	case sockdiag.FinWait1, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing:
		return true
	}
	return false
}
