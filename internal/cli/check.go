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
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/check"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// checkWithin bounds a whole check.
const checkWithin = 2 * time.Minute

// checker is weft check.
type checker struct {
	out     output
	cluster clusterFlags
	machine datapath.Config
	cni     string
	pre     bool
	now     func() time.Time
}

func newCheckCmd(now func() time.Time) *cobra.Command {
	c := checker{now: now}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check an installation in a cluster; with --pre, whether a machine and a cluster can run one",
		Long: `Check an installation in a cluster: what is installed, its versions and CRDs, the controller, and the agent,
Envoy and CNI plugin of each node, which are asked in the agents' pods (right to create pods/exec). Nothing is changed.

With --pre check whether a machine and a cluster can run Weft. As root, or where no cluster is known, this machine
is looked at as a node: kernel, eBPF, cgroup2, CNI. Where a kubeconfig is found, its cluster is.

Each line that is not good says what to do. The exit status is 1 if one failed.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.out.check(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), checkWithin)
			defer cancel()
			do := c.after
			if c.pre {
				do = c.before
			}
			all, err := do(ctx)
			if err != nil {
				return err
			}
			return printChecks(cmd.OutOrStdout(), &c.out, all)
		},
	}
	c.out.flag(cmd, "table", "json", "yaml")
	c.cluster.flags(cmd.Flags())
	f := cmd.Flags()
	f.BoolVar(&c.pre, "pre", false, "before Weft is installed")
	f.StringVar(&c.machine.CgroupRoot, "cgroup-root", "", "with --pre: as given to weft agent")
	f.StringVar(&c.machine.PinDir, "pins", "", "with --pre: as given to weft agent")
	f.StringVar(&c.cni, "cni-conf", "/etc/cni/net.d", "with --pre: folder of the CNI's configuration")
	return cmd
}

// before is weft check --pre.
func (c *checker) before(ctx context.Context) ([]check.Result, error) {
	var all []check.Result
	if os.Geteuid() == 0 || !c.cluster.known() {
		m := check.ThisMachine(c.machine)
		m.CNI = c.cni
		all = m.Check()
	}
	if c.cluster.known() {
		s, err := survey.Open(c.cluster.Options)
		if err != nil {
			return nil, err
		}
		all = append(all, check.Cluster(ctx, s)...)
	}
	return all, nil
}

// after is weft check.
func (c *checker) after(ctx context.Context) ([]check.Result, error) {
	if !c.cluster.known() {
		return nil, fmt.Errorf("no cluster is known: name one by --kubeconfig. For a node that runs from a folder use \"weft status\", for a machine before an installation \"weft check --pre\"")
	}
	s, err := survey.Open(c.cluster.Options)
	if err != nil {
		return nil, err
	}
	i := check.Installed{Host: s.Host(), Now: c.now()}
	if i.Version, err = s.Version(ctx); err != nil {
		return check.Cluster(ctx, s), nil // it says what to do
	}
	i.Installation, i.Unread = s.Installation(ctx, c.cluster.namespace)
	f := newFleet(s, c.cluster.namespace, i.Pods)
	for _, a := range ask(ctx, f, f.agents, (*api.Client).Status) {
		i.Agents = append(i.Agents, check.Agent{Node: a.node, Status: a.value, Err: a.err})
	}
	return i.Check(), nil
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
