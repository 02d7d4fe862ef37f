// Command weft is the whole mesh: the node's agent, the supervisor of its Envoy, and the user's commands.
package main

import (
	"os"

	"github.com/weft-mesh/weft/internal/agent"
	"github.com/weft-mesh/weft/internal/cli"
)

// version is set when the binary is linked.
var version string

func main() { os.Exit(newRoot().Main()) }

func newRoot() *cli.Root {
	root := cli.New(cli.Options{Version: version, Envoy: agent.EnvoyVersion})
	root.AddCommand(newAgentCmd(root.Run), newProxyCmd(root.Run), newControllerCmd(), newCleanupCmd(root.Run))
	root.AddCommand(newDemoCmds()...)
	return root
}
