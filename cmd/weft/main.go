// Command weft is the whole mesh: the node's agent, the supervisor of its Envoy, and the user's commands.
package main

import (
	"os"

	"github.com/weft-mesh/weft/internal/agent"
	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/cni"
)

// version is set when the binary is linked.
var version string

func main() {
	if cni.Invoked() {
		os.Exit(cni.Plugin(cli.Version(version)))
	}
	os.Exit(newRoot().Main())
}

func newRoot() *cli.Root {
	root := cli.New(cli.Options{Version: version, Envoy: agent.EnvoyVersion})
	root.AddCommand(newAgentCmd(root.Run), newProxyCmd(root.Run), newTunnelCmd(root.Run), newControllerCmd(), newCleanupCmd(root.Run), newCNICmd())
	root.AddCommand(newDemoCmds()...)
	return root
}
