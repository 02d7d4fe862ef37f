package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/cni"
)

// Where container runtimes look, unless they are told otherwise.
const (
	cniConfDir = "/etc/cni/net.d"
	cniBinDir  = "/opt/cni/bin"
)

func newCNICmd() *cobra.Command {
	return &cobra.Command{
		Use:   "cni",
		Short: "The CNI plugin, as the container runtime calls it",
		Long: `Take a pod into the mesh before it starts. The container runtime calls this, by the name weft-cni, after the plugins that
make the pod's network: what to do is in its environment and on standard input (https://www.cni.dev/docs/spec/).`,
		Hidden: true,
		Args:   cli.NoArgs,
		Run:    func(*cobra.Command, []string) { os.Exit(cni.Plugin(cli.Version(version))) },
	}
}
