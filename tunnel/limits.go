package tunnel

import "syscall"

// podShare is the part of the node's streams, and of its sessions, that a pod may have in one direction at most. A pod's share
// of the node is a half of both: were it less than what one of its peers may have, that peer would shut out the others.
const podShare = 4

// nodeLimits returns how many streams and sessions the pods of a node may have, where the process may have so many files
// open. Each takes one; an eighth is left for listeners and namespaces. Past the limit of files nobody would be served.
func nodeLimits(files uint64) (streams, sessions int64) {
	n := int64(min(files, 1<<32))
	return min(nodeStreams, n/4*3), min(nodeSessions, n/8)
}

// openFiles returns this process's limit of open files (RLIMIT_NOFILE), which Go has raised as far as it may.
func openFiles() uint64 {
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return 1024 // what it is at least, everywhere
	}
	return now.Cur
}
