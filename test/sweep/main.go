// Command sweep takes away what tests, demos and benchmarks left that were killed: eBPF programs at the cgroup root, which see
// the connections of whatever runs later, pods, processes and folders. One that still runs is an error. It needs root.
package main

import (
	"fmt"
	"os"

	"github.com/weft-mesh/weft/internal/sandbox"
)

func main() {
	if err := sandbox.CleanKilled(); err != nil {
		fmt.Fprintln(os.Stderr, "sweep:", err)
		os.Exit(1)
	}
}
