package proxy

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// logSize is the size, in bytes, past which a log file is moved to the one before it. With both, twice as much is kept.
	logSize = 4 << 20
	// logPoll is how often its size is looked at. Until then it grows by what is written.
	logPoll = 2 * time.Second
)

// LogTo makes a file the standard output and the standard error of this process, and so of what it starts. What is in the file
// stays. It is for Config.LogFile.
func LogTo(path string) (*os.File, error) {
	// A link is not followed, and a pipe of this name does not block.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log file: %w; check its folder", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	for _, fd := range []int{unix.Stdout, unix.Stderr} {
		if err == nil {
			err = unix.Dup3(int(f.Fd()), fd, 0)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("log file: %w", err)
	}
	return f, nil
}

// boundLog keeps a log file small until ctx ends.
func (c Config) boundLog(ctx context.Context) {
	tick := time.NewTicker(logPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := rotateLog(c.LogFile, logSize); err != nil {
			c.Log.Error("the log file is not kept", "file", c.LogFile.Name(), "error", err)
		}
	}
}

// rotateLog copies a log file of more than size bytes to the one before it, NAME.1, and empties it. Renaming it would not do:
// Envoy, weft tunnel and whatever of them an earlier weft proxy has started keep the descriptor that they were given. They append,
// so they go on at the new end. A line that is written between the end of the copy and the emptying is lost. The file is emptied
// too if it cannot be copied: what fills the run directory's memory is worse than a log that is not there.
func rotateLog(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() <= size {
		return err
	}
	err = copyLog(f)
	if e := f.Truncate(0); e != nil {
		return e
	}
	return err
}

func copyLog(f *os.File) error {
	old, err := os.OpenFile(f.Name()+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	// What is written meanwhile is copied too, up to a bound: a writer that is faster than the copy would never let it end.
	_, err = io.Copy(old, io.NewSectionReader(f, 0, 2*logSize))
	if e := old.Close(); err == nil {
		err = e
	}
	return err
}
