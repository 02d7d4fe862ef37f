package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/envoyconfig"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
)

// envoyReach says which node's Envoy a command asks.
type envoyReach struct {
	reach
	pod string // namespace/name of a pod of that node
}

func newProxyConfigCmd(run *string) *cobra.Command {
	r := &envoyReach{reach: reach{run: run}}
	cmd := &cobra.Command{
		Use:     "proxy-config",
		Aliases: []string{"pc"},
		Short:   "Show what a node's Envoy has: listeners, clusters, routes, endpoints, secrets",
		Long: `Show what a node's Envoy has, in Envoy's terms. weft config shows the same in the mesh's terms. Envoy gets clusters and
route tables when a request first needs them, so what nobody has called yet is not there.

In a cluster name the node by --node, or by --pod a pod that runs on it.`,
		Example: `  weft proxy-config listeners --pod shop/web-1
  weft proxy-config routes service/shop/web -o yaml
  weft proxy-config log-level http=debug --node worker-1`,
		Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		dumpListCmd(r, "listeners", "Where Envoy listens", func(c *envoyconfig.Config) []envoyconfig.Listener { return c.Listeners }, listenerColumns),
		dumpListCmd(r, "clusters", "Where Envoy connects to", func(c *envoyconfig.Config) []envoyconfig.Cluster { return c.Clusters }, clusterColumns),
		dumpListCmd(r, "routes", "The rules of each route table: the first that matches wins", func(c *envoyconfig.Config) []envoyconfig.Route { return c.Routes }, routeColumns),
		dumpListCmd(r, "secrets", "Certificates, and what peers' are checked with; no keys", func(c *envoyconfig.Config) []envoyconfig.Secret { return c.Secrets }, secretColumns),
		newEnvoyEndpointsCmd(r), newEnvoyDumpCmd(r), newLogLevelCmd(r),
	)
	r.flags(cmd.PersistentFlags())
	cmd.PersistentFlags().StringVar(&r.pod, "pod", "", "the node of this pod: NAMESPACE/NAME")
	return cmd
}

// client gives the agent of the one node that is meant.
func (r *envoyReach) client(ctx context.Context) (*api.Client, error) {
	namespace, name := model.SplitKey(r.pod)
	if r.pod != "" && (namespace == "" || name == "") {
		return nil, fmt.Errorf("--pod %q is not of the form NAMESPACE/NAME", r.pod)
	}
	if c := r.local(); c != nil {
		return c, nil
	}
	if r.pod != "" {
		c, err := survey.Open(r.Options)
		if err != nil {
			return nil, err
		}
		node, err := c.NodeOf(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		if r.node != "" && r.node != node {
			return nil, fmt.Errorf("Pod %s runs on node %s, not on %s", r.pod, node, r.node)
		}
		r.node = node
	}
	f, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	if len(f.agents) > 1 {
		return nil, fmt.Errorf("there are %d nodes, each with an Envoy: name one by --node, or a pod of one by --pod", len(f.agents))
	}
	return f.client(f.agents[0]), nil
}

// inspect asks the one node that is meant for what its Envoy answers.
func (r *envoyReach) inspect(ctx context.Context, what string) (json.RawMessage, error) {
	c, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	return c.InspectEnvoy(ctx, what)
}

// named makes a command that takes a part of a resource's name.
func named(what, short string, out *output, run func(cmd *cobra.Command, part string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:     what + " [PART OF A NAME]",
		Aliases: []string{strings.TrimSuffix(what, "s")},
		Short:   short,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			return run(cmd, strings.Join(args, ""))
		},
	}
	out.flag(cmd, "table", "wide", "json", "yaml")
	return cmd
}

// dumpListCmd shows one kind of resource of Envoy's configuration dump.
func dumpListCmd[T envoyconfig.Kind](r *envoyReach, what, short string, list func(*envoyconfig.Config) []T, columns []column[T]) *cobra.Command {
	var out output
	return named(what, short, &out, func(cmd *cobra.Command, part string) error {
		text, err := r.inspect(cmd.Context(), api.EnvoyDump)
		if err != nil {
			return err
		}
		config, err := envoyconfig.Parse(text)
		if err != nil {
			return err
		}
		matches := func(v T) bool {
			name := v.Common().Name
			ofPod := r.pod == "" || what != "listeners" || strings.HasPrefix(name, r.pod+"/")
			return ofPod && strings.Contains(name, part)
		}
		rows := slices.DeleteFunc(slices.Clone(list(config)), func(v T) bool { return !matches(v) })
		return showRaw(cmd, &out, rows, func(v T) json.RawMessage { return v.Common().Raw }, columns)
	})
}

// showRaw prints a table, or the resources themselves.
func showRaw[T any](cmd *cobra.Command, out *output, rows []T, raw func(T) json.RawMessage, columns []column[T]) error {
	all := []json.RawMessage{}
	for _, v := range rows {
		all = append(all, raw(v))
	}
	if done, err := out.structured(cmd.OutOrStdout(), all); done {
		return err
	}
	if len(rows) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "None.")
		return nil
	}
	return printTable(cmd.OutOrStdout(), rows, columns, out.format == "wide")
}

func newEnvoyEndpointsCmd(r *envoyReach) *cobra.Command {
	var out output
	return named("endpoints", "The addresses behind each cluster, with what went there", &out, func(cmd *cobra.Command, part string) error {
		text, err := r.inspect(cmd.Context(), api.EnvoyClusters)
		if err != nil {
			return err
		}
		rows, err := envoyconfig.ParseClusters(text)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(e envoyconfig.Endpoint) bool { return !strings.Contains(e.Cluster, part) })
		return showRaw(cmd, &out, rows, func(e envoyconfig.Endpoint) json.RawMessage { return e.Raw }, endpointColumns)
	})
}

func newEnvoyDumpCmd(r *envoyReach) *cobra.Command {
	return &cobra.Command{
		Use:   "dump",
		Short: "All that Envoy has, as its admin interface dumps it; no keys",
		Args:  NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := r.inspect(cmd.Context(), api.EnvoyDump)
			if err != nil {
				return err
			}
			_, err = (&output{format: "json"}).structured(cmd.OutOrStdout(), text)
			return err
		},
	}
}

func newLogLevelCmd(r *envoyReach) *cobra.Command {
	return &cobra.Command{
		Use:   "log-level [LEVEL | LOGGER=LEVEL]...",
		Short: "Show the levels of Envoy's loggers, or set them until it is restarted",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := r.client(cmd.Context())
			if err != nil {
				return err
			}
			levels, err := c.EnvoyLogLevels(cmd.Context())
			for _, arg := range args {
				logger, level, found := strings.Cut(arg, "=")
				if !found {
					logger, level = "", arg
				}
				if level == "" || found && logger == "" {
					return fmt.Errorf("%q is neither LEVEL nor LOGGER=LEVEL", arg)
				}
				if err == nil {
					levels, err = c.SetEnvoyLogLevel(cmd.Context(), logger, level)
				}
			}
			if err != nil {
				return err
			}
			return printLevels(cmd.OutOrStdout(), levels)
		},
	}
}

func printLevels(w io.Writer, levels map[string]string) error {
	if len(levels) == 0 {
		return errors.New("Envoy named no loggers")
	}
	return printTable(w, slices.Sorted(maps.Keys(levels)), []column[string]{
		{head: "LOGGER", of: same}, {head: "LEVEL", of: func(logger string) string { return levels[logger] }},
	}, false)
}
