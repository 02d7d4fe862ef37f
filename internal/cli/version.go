package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type version struct {
	Weft     string `json:"weft"`
	Envoy    string `json:"envoy"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCmd(o Options) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, and that of Envoy which it is made for",
		Args:  NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			v := version{Weft: Version(o.Version), Envoy: o.Envoy, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if done, err := out.structured(cmd.OutOrStdout(), v); done {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "weft %s (%s, %s)\nmade for Envoy %s\n", v.Weft, v.Go, v.Platform, v.Envoy)
			return err
		},
	}
	out.flag(cmd, "table", "json", "yaml")
	return cmd
}

// Version gives the version set at the link, else what the Go tool recorded of the module or of the repository.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}
