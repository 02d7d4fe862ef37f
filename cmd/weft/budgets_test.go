package main

import (
	"testing"

	"github.com/spf13/pflag"
)

// TestBudgetFlags: a bound of nothing would refuse every route, and one below it none.
func TestBudgetFlags(t *testing.T) {
	var share, expressions int
	parse := func(args ...string) error {
		f := pflag.NewFlagSet("weft", pflag.ContinueOnError)
		budgetFlags(f, &share, &expressions)
		return f.Parse(args)
	}
	if err := parse(); err != nil || share != 25 || expressions != 256 {
		t.Errorf("without flags: %d %% and %d, %v", share, expressions, err)
	}
	if err := parse("--namespace-share=40", "--request-expressions=1024"); err != nil || share != 40 || expressions != 1024 {
		t.Errorf("with flags: %d %% and %d, %v", share, expressions, err)
	}
	for _, arg := range []string{
		"--namespace-share=0", "--namespace-share=101", "--request-expressions=0", "--request-expressions=-1", "--request-expressions=many",
	} {
		if err := parse(arg); err == nil {
			t.Errorf("%s is taken", arg)
		}
	}
}
