package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mountsFile lists the mounts that this process sees. poll(2) reports each change of them (proc_pid_mounts(5)).
	mountsFile = "/proc/self/mountinfo"
	// mountsPause is how long changes are gathered: a pod's start mounts several times.
	mountsPause = 50 * time.Millisecond
	// lookEvery is how often namespaces are looked at without a change of the mounts: a name can also be removed alone.
	lookEvery = 10 * time.Second
	// lookEveryBlind is how often if changes of the mounts are not reported.
	lookEveryBlind = time.Second
)

// watchMounts sends after changes of this process's mounts, and now and then, until ctx ends. The names of network
// namespaces are mounts, and come and go with no other sign.
func watchMounts(ctx context.Context, log *slog.Logger) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		err := pollMounts(ctx, lookEvery, changed)
		if ctx.Err() != nil {
			return
		}
		log.Warn("changes of mounts are not reported; network namespaces are looked at every second", "error", err)
		tick := time.NewTicker(lookEveryBlind)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				signal(changed)
			}
		}
	}()
	return changed
}

// pollMounts sends after each change, and when there was none for a while, until ctx ends.
func pollMounts(ctx context.Context, quiet time.Duration, changed chan struct{}) error {
	// Not os.Open: the kernel reports a change once for each open file, and the runtime's poller would take it.
	mounts, err := unix.Open(mountsFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", mountsFile, err)
	}
	defer func() { _ = unix.Close(mounts) }()
	end, wake, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watch %s: %w", mountsFile, err)
	}
	defer end.Close()
	stop := context.AfterFunc(ctx, func() { _ = wake.Close() })
	defer func() {
		if stop() {
			_ = wake.Close()
		}
	}()
	fds := []unix.PollFd{{Fd: int32(mounts), Events: unix.POLLPRI}, {Fd: int32(end.Fd()), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		if _, err := unix.Poll(fds, int(quiet.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch %s: %w", mountsFile, err)
		}
		signal(changed)
		select {
		case <-ctx.Done():
		case <-time.After(mountsPause):
		}
	}
	return ctx.Err()
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
