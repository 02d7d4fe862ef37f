package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// subcommand checks the arguments of a command that is only a group of others. One that is there is the name of a
// subcommand that does not exist.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return fmt.Errorf("%s; did you mean %s?", text, strings.Join(like, " or "))
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return fmt.Errorf("%s: there are %s", text, strings.Join(names, ", "))
}

// NoArgs checks the arguments of a command that takes flags alone.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%q is not expected: %s takes flags alone; %s --help lists them", args[0], cmd.CommandPath(), cmd.CommandPath())
}

// flagError adds to what is wrong with a flag where the flags are listed.
func flagError(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w; %s --help lists the flags", err, cmd.CommandPath())
}

// choices makes shells complete a flag with its values, also after a comma where it takes several.
func choices(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if list := cmd.Flags().Lookup(flag).Value.Type() == "stringSlice"; list {
			before = typed[:strings.LastIndexByte(typed, ',')+1]
		}
		out := make([]string, 0, len(values))
		for _, v := range values {
			out = append(out, before+v)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}
