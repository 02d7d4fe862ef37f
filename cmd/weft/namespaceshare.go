package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// percentage is a flag from 1 to 100.
type percentage int

func (p *percentage) String() string { return strconv.Itoa(int(*p)) }

// Type names the value in the help.
func (p *percentage) Type() string { return "percent" }

func (p *percentage) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a percentage from 1 to 100", text)
	}
	*p = percentage(n)
	return nil
}

// namespaceShareFlag adds the flag of agent and controller, which must both know it: one programs the kernel and Envoy, the
// other says what is wrong with an object.
func namespaceShareFlag(f *pflag.FlagSet, percent *int) {
	*percent = 25
	f.Var((*percentage)(percent), "namespace-share", "the most that one namespace may have of what all share on a node, as a percentage of each table; the oldest objects come first")
}
