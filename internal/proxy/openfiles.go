package proxy

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	// filesPerConnection are a connection's two ends.
	filesPerConnection = 2
	// connectionsPerSession is how many connections there may be for each session of datagrams, which has one file.
	connectionsPerSession = 4
	// spareFiles are for listeners, and for those whose requests go to several backends.
	spareFiles = 1 << 14
)

// Connections returns how many downstream connections an Envoy that this process starts may have: most, or fewer where the
// limit of open files (RLIMIT_NOFILE) is too low for them. It raises this process's limit as far as it may. An Envoy without
// files refuses the connections of all pods, whoever has taken them.
func Connections(most uint64) (uint64, error) {
	files, err := raiseOpenFiles(2*filesPerConnection*most + spareFiles)
	if err != nil {
		return 0, fmt.Errorf("the limit of open files: %w", err)
	}
	return connectionsWith(files, most), nil
}

func connectionsWith(files, most uint64) uint64 {
	left := files - min(spareFiles, files/4)
	return max(min(most, left*connectionsPerSession/(filesPerConnection*connectionsPerSession+1)), 1)
}

// Sessions returns how many sessions of datagrams an Envoy may have beside a number of connections. Files are kept for them;
// each takes some 5 kB of Envoy's heap.
func Sessions(connections uint64) uint64 { return max(connections/connectionsPerSession, 1) }

// raiseOpenFiles raises the limit of open files to n, or as far as it may, and returns it. It does not lower it.
func raiseOpenFiles(n uint64) (uint64, error) {
	if data, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if most, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil {
			n = min(n, most)
		}
	}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return 0, err
	}
	if n = max(n, now.Max); syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}) == nil {
		return n, nil
	}
	// It takes CAP_SYS_RESOURCE to raise the hard limit.
	return now.Max, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now.Max, Max: now.Max})
}
