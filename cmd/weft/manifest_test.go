package main

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestManifestArguments parses the command lines of the containers that are installed.
func TestManifestArguments(t *testing.T) {
	found := map[string]bool{}
	for _, file := range []string{"weft.yaml", "cleanup.yaml"} {
		text, err := os.ReadFile("../../install/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			var o struct {
				Spec struct {
					Template struct {
						Spec struct{ Containers []struct{ Args []string } }
					}
				}
			}
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatal(err)
			}
			for _, c := range o.Spec.Template.Spec.Containers {
				cmd, rest, err := newRoot().Find(c.Args)
				if err == nil {
					err = cmd.ParseFlags(rest)
				}
				if err == nil {
					err = cmd.ValidateArgs(cmd.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: weft %s: %v", file, strings.Join(c.Args, " "), err)
				}
				found[cmd.Name()] = true
			}
		}
	}
	for _, want := range []string{"agent", "proxy", "controller", "cleanup"} {
		if !found[want] {
			t.Errorf("no container runs weft %s", want)
		}
	}
}
