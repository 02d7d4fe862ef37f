package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

func newTranslateCmd() *cobra.Command {
	out := output{}
	var paths []string
	cmd := &cobra.Command{
		Use:   "translate -f FILE",
		Short: "Show what manifests become: the mesh's model, resources of Envoy, or entries of the kernel's maps",
		Long: `Show what manifests become, without a cluster or a node: -o routes lists the rules for requests in order of
precedence, and where connections go by TCPRoutes and TLSRoutes, -o model the rows that an agent makes, -o envoy the listeners
of Gateways, route tables, clusters and endpoints that it gives to Envoy, -o kernel the Services and peers that it writes to
the kernel. weft analyze says what is wrong with the manifests.`,
		Example: `  weft translate -f examples/canary -o envoy`,
		Args:    NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			mesh, err := readManifests(cmd, paths)
			if err != nil {
				return err
			}
			if n := mesh.Unreadable(); n > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "Documents with faults, which are left out: %d. weft analyze says which and why.\n", n)
			}
			w := cmd.OutOrStdout()
			rows := mesh.Model()
			var v any = rows
			switch out.format {
			case "routes":
				return printTranslated(w, mesh.RouteTables(), streamRows(rows))
			case "envoy":
				if v, err = mesh.Envoy(); err != nil {
					return err
				}
			case "kernel":
				entries, err := mesh.Kernel()
				if err != nil {
					return err
				}
				_, err = io.WriteString(w, entries)
				return err
			}
			text, err := yaml.Marshal(v)
			if err != nil {
				return err
			}
			_, err = w.Write(text)
			return err
		},
	}
	manifestFlag(cmd, &paths)
	out.flag(cmd, "routes", "model", "envoy", "kernel")
	return cmd
}
