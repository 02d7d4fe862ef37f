package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/analyze"
)

// manifestFlag is -f of the commands that read manifests.
func manifestFlag(cmd *cobra.Command, paths *[]string) {
	cmd.Flags().StringArrayVarP(paths, "filename", "f", nil, "file or folder of manifests, - for standard input; may be repeated")
}

func readManifests(cmd *cobra.Command, paths []string) (*analyze.Mesh, error) {
	if len(paths) == 0 {
		return nil, errors.New("no manifests: name a file, a folder or - by -f")
	}
	return whileWanted(cmd.Context(), func() (*analyze.Mesh, error) { return analyze.Read(paths, cmd.InOrStdin()) })
}

// whileWanted returns what read returns, or an error when ctx ends: a read of a terminal or of a pipe may never end.
func whileWanted[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func newAnalyzeCmd() *cobra.Command {
	var (
		out     output
		paths   []string
		strict  bool
		cluster analyzedCluster
	)
	cmd := &cobra.Command{
		Use:   "analyze [-f FILE] [--cluster]",
		Short: "Say what is wrong with manifests before they are applied, or with the objects of a cluster",
		Long: `Say what is wrong with manifests before they are applied, or with the objects of a cluster: what would not be taken, every
condition that would say that something does not work, and what is allowed and hardly meant.

With -f no cluster and no node is asked, so what the manifests refer to (Services, Gateways, GatewayClasses, Namespaces) must be
among them. Without -f the objects of the cluster in the kubeconfig are read, and with -f and --cluster both: a manifest counts in
place of the object that it would change. Nothing is written. It takes the right to list the kinds that the mesh reads; Secrets are
not among them, and the certificates of Gateways are taken to be there and valid unless --secrets reads them. What may be listed
in one namespace only is read there with -n.

The exit status is 1 if there is an error, with --strict if there is a warning too.`,
		Example: `  weft analyze -f examples/canary
  weft analyze
  weft analyze -n shop --strict
  weft analyze -f route.yaml --cluster`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if len(paths) > 0 && !cluster.asked {
				if err := cluster.unused(cmd.Flags()); err != nil {
					return err
				}
				mesh, err := readManifests(cmd, paths)
				if err != nil {
					return err
				}
				return printFindings(cmd, &out, mesh.Findings(), strict)
			}
			mesh, err := whileWanted(cmd.Context(), func() (*analyze.Mesh, error) {
				return cluster.read(cmd.Context(), paths, cmd.InOrStdin(), cmd.ErrOrStderr())
			})
			if err != nil {
				return err
			}
			return printFindings(cmd, &out, cluster.in(mesh.Findings()), strict)
		},
	}
	manifestFlag(cmd, &paths)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	out.flag(cmd, "table", "json", "yaml")
	cluster.flags(cmd.Flags())
	return cmd
}

func printFindings(cmd *cobra.Command, out *output, list []analyze.Finding, strict bool) error {
	w := cmd.OutOrStdout()
	done, err := out.structured(w, list)
	switch {
	case err != nil:
		return err
	case done:
	case len(list) == 0:
		fmt.Fprintln(w, "No problem found.")
	default:
		columns := findingColumns
		if !slices.ContainsFunc(list, func(f analyze.Finding) bool { return f.File != "" }) {
			columns = columns[1:] // objects of a cluster have no place
		}
		if err := printTable(w, list, columns, false); err != nil {
			return err
		}
	}
	for _, f := range list {
		if f.Severity == analyze.Error || strict {
			return ErrUnhealthy
		}
	}
	return nil
}

var findingColumns = []column[analyze.Finding]{
	{head: "WHERE", of: func(f analyze.Finding) string { return place(f.File, f.Line) }},
	{head: "SEVERITY", of: func(f analyze.Finding) string { return string(f.Severity) }},
	{head: "CODE", of: func(f analyze.Finding) string { return f.Code }},
	{head: "OBJECT", of: func(f analyze.Finding) string {
		if f.Object.Kind == "" {
			return ""
		}
		return f.Object.String()
	}},
	{head: "FOR", of: func(f analyze.Finding) string { return f.For }},
	{head: "MESSAGE", of: func(f analyze.Finding) string { return f.Message }},
}

// place is file:line, or the file where the line is 0.
func place(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}
