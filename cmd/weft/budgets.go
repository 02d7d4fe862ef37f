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

// positive is a flag from 1 on.
type positive int

func (p *positive) String() string { return strconv.Itoa(int(*p)) }

// Type names the value in the help.
func (p *positive) Type() string { return "int" }

func (p *positive) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number from 1 on", text)
	}
	*p = positive(n)
	return nil
}

// budgetFlags adds the flags of agent and controller for what a namespace may have. Both must have the same values: one programs
// the kernel and Envoy, the other says what is wrong with an object.
func budgetFlags(f *pflag.FlagSet, share, expressions *int) {
	*share, *expressions = 25, 256
	f.Var((*percentage)(share), "namespace-share", "the most that one namespace may have of what all share on a node, as a percentage of each table; the oldest objects come first")
	f.Var((*positive)(expressions), "request-expressions", "the most regular expressions of a namespace's routes that Envoy may compare a request with, at a Service or a hostname; the oldest routes come first")
}
