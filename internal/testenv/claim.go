package testenv

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
)

// labs is how many labs the tests of one machine may have at a time.
const labs = 250

// Claim returns the lowest number from 1 to 250 that no test of this machine holds, and a function that gives it back.
// Tests build the names and subnets of what they make from it, so that two runs do not meet. A process that is killed
// gives its number back; the next one that gets it must remove what was left.
func Claim() (number int, release func(), err error) {
	for number = 1; number <= labs; number++ {
		// An abstract socket ends with its process and leaves no file.
		l, err := net.Listen("unix", fmt.Sprintf("@weft-test-%d", number))
		if err == nil {
			return number, func() { _ = l.Close() }, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, nil, fmt.Errorf("claim number %d for a test: %w", number, err)
		}
	}
	return 0, nil, fmt.Errorf("all numbers for tests up to %d are claimed", labs)
}

// claim claims a number until the test ends.
func claim(t testing.TB) int {
	t.Helper()
	n, release, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return n
}
