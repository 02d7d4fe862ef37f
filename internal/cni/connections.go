package cni

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
	return inNamespace(netns, func() error {
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

// inNamespace runs f on a thread that is in the network namespace at a path. A namespace that is gone is no error.
func inNamespace(path string, f func() error) error {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer file.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}
