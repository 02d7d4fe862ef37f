package datapath

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInUse is given where another process works on the same pins.
var ErrInUse = errors.New("another weft agent works on the same pins")

// lockPins makes sure that one process alone writes the maps and replaces the programs: two with different manifests
// would undo each other's entries for ever. The lock ends with the process, however it ends.
func lockPins(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of pins: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %w; end it first, or give this one --pins of its own", dir, ErrInUse)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
