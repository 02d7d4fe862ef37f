// Package setns runs functions in other namespaces of the kernel (setns(2)).
package setns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Kind is a kind of namespace.
type Kind struct {
	name string // below /proc/<pid>/ns
	flag int
}

// The kinds of namespaces that threads enter one by one.
var (
	Network = Kind{"net", unix.CLONE_NEWNET}
	Cgroup  = Kind{"cgroup", unix.CLONE_NEWCGROUP}
)

// Do runs f on a thread that is in the namespace of a descriptor, which takes CAP_SYS_ADMIN. Processes that f starts are in it
// too, goroutines are not.
func (k Kind) Do(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		comesBack, err := k.run(fd, f)
		if comesBack {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

// run runs f in the namespace and reports whether the thread is back in its own.
func (k Kind) run(fd int, f func() error) (bool, error) {
	own, err := os.Open("/proc/thread-self/ns/" + k.name)
	if err != nil {
		return true, fmt.Errorf("own %s namespace: %w", k.name, err)
	}
	defer own.Close()
	if err := unix.Setns(fd, k.flag); err != nil {
		return true, fmt.Errorf("enter the %s namespace: %w; it takes CAP_SYS_ADMIN", k.name, err)
	}
	err = f()
	return unix.Setns(int(own.Fd()), k.flag) == nil, err
}

// DoAt is Do with the namespace at a path.
func (k Kind) DoAt(path string, f func() error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return k.Do(int(file.Fd()), f)
}
