package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/check"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// checkWithin bounds a whole check.
const checkWithin = 2 * time.Minute

// clusterFlags say which cluster a command asks.
type clusterFlags struct {
	survey.Options
	namespace string // the mesh's own
}

func (c *clusterFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.Kubeconfig, "kubeconfig", "", "file that names the API server (default: as kubectl finds it)")
	f.StringVar(&c.Context, "context", "", "context of the kubeconfig")
	f.StringVar(&c.namespace, "mesh-namespace", "weft-system", "namespace that Weft is installed in")
}

// known tells whether there is a cluster to ask.
func (c *clusterFlags) known() bool { return c.Kubeconfig != "" || c.Context != "" || survey.Known() }

func newCheckCmd() *cobra.Command {
	var out output
	var cluster clusterFlags
	var machine datapath.Config
	var cni string
	var pre bool
	cmd := &cobra.Command{
		Use:   "check --pre",
		Short: "Check whether a machine and a cluster can carry the mesh",
		Long: `Check whether a machine and a cluster can carry the mesh; nothing is changed. As root, or where no cluster is known,
this machine is looked at as a node: kernel, eBPF, cgroup2, CNI. Where a kubeconfig is found, its cluster is.

Each line that is not good says what to do. The exit status is 1 if one failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if !pre {
				return fmt.Errorf("check what? There is --pre")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), checkWithin)
			defer cancel()
			var all []check.Result
			if os.Geteuid() == 0 || !cluster.known() {
				m := check.ThisMachine(machine)
				m.CNI = cni
				all = m.Check()
			}
			if cluster.known() {
				c, err := survey.Open(cluster.Options)
				if err != nil {
					return err
				}
				all = append(all, check.Cluster(ctx, c)...)
			}
			return printChecks(cmd.OutOrStdout(), &out, all)
		},
	}
	out.flag(cmd, "table", "json", "yaml")
	cluster.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&pre, "pre", false, "before Weft is installed")
	f.StringVar(&machine.CgroupRoot, "cgroup-root", "", "as given to weft agent")
	f.StringVar(&machine.PinDir, "pins", "", "as given to weft agent")
	f.StringVar(&cni, "cni-conf", "/etc/cni/net.d", "folder of the CNI's configuration")
	return cmd
}

// printChecks prints results, and gives ErrUnhealthy if one is a failure.
func printChecks(w io.Writer, out *output, all []check.Result) error {
	done, err := out.structured(w, all)
	if err == nil && !done {
		err = printResults(w, all)
	}
	if err == nil && check.Failed(all) {
		err = ErrUnhealthy
	}
	return err
}

// printResults prints a heading for each area and a line for each result, a remedy below it.
func printResults(w io.Writer, all []check.Result) error {
	tw := newTabWriter(w)
	area := ""
	count := map[check.Level]int{}
	for _, r := range all {
		count[r.Level]++
		if r.Area != area {
			if area != "" {
				fmt.Fprintln(tw)
			}
			area = r.Area
			fmt.Fprintf(tw, "%s\n", strings.ToUpper(area[:1])+area[1:])
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", r.Level, printable(r.Name), printable(strings.ReplaceAll(r.Found, "\n", "; ")))
		if r.Remedy != "" {
			fmt.Fprintf(tw, "  \t\t-> %s\n", printable(r.Remedy))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nok: %d, warnings: %d, failed: %d\n", count[check.OK], count[check.Warn], count[check.Fail])
	return err
}
