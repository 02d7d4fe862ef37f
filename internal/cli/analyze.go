package cli

import (
	"errors"
	"fmt"

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
	return analyze.Read(paths, cmd.InOrStdin())
}

func newAnalyzeCmd() *cobra.Command {
	var (
		out    output
		paths  []string
		strict bool
	)
	cmd := &cobra.Command{
		Use:   "analyze -f FILE",
		Short: "Say what is wrong with manifests before they are applied",
		Long: `Say what is wrong with manifests before they are applied: what would not be taken, every condition that would say that
something does not work, and what is allowed and hardly meant. No cluster and no node is asked, so what the manifests
refer to (Services, Gateways, GatewayClasses, Namespaces) must be among them.

The exit status is 1 if there is an error, with --strict if there is a warning too.`,
		Example: `  weft analyze -f examples/canary
  kubectl get -A -o yaml ns,svc,httproutes,gateways,gatewayclasses | weft analyze -f - -f route.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			mesh, err := readManifests(cmd, paths)
			if err != nil {
				return err
			}
			return printFindings(cmd, &out, mesh.Findings(), strict)
		},
	}
	manifestFlag(cmd, &paths)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	out.flag(cmd, "table", "json", "yaml")
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
		if err := printTable(w, list, findingColumns, false); err != nil {
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
