// Command render renders the chart in ../chart as `helm template` does, so that nobody needs helm for it:
//
//	go -C install/render run . -set cgroup.hostRoot=/sys/fs/cgroup/unified
//	go -C install/render run . -write
//
// -write refreshes the manifests beside the chart; a test tells when they are not what the chart gives.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v4/pkg/strvals"
)

// manifests are kept in the repository: file below install, and the values that give it.
var manifests = map[string]string{
	"weft.yaml":    "namespace.create=true",
	"cleanup.yaml": "namespace.create=true,cleanup=true",
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("render", flag.ContinueOnError)
	chart := f.String("chart", "../chart", "the chart")
	namespace := f.String("namespace", "weft-system", "namespace of the release")
	write := f.Bool("write", false, "refresh the manifests of the repository")
	var sets []string
	f.Func("set", "key=value[,key=value...], as helm takes it; may be repeated", func(s string) error {
		sets = append(sets, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if !*write {
		out, err := renderSets(*chart, *namespace, sets...)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(out)
		return err
	}
	for name, set := range manifests {
		out, err := renderManifest(*chart, set)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(*chart, "..", name), out, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// renderManifest gives a manifest of the repository.
func renderManifest(chart, set string) ([]byte, error) {
	out, err := renderSets(chart, "weft-system", set)
	if err != nil {
		return nil, err
	}
	// Helm is not there when kubectl applies it.
	text := strings.ReplaceAll(string(out), "app.kubernetes.io/managed-by: Helm\n", "app.kubernetes.io/managed-by: kubectl\n")
	return []byte("# Rendered from the chart with " + set + " by make install-manifest.\n" + text), nil
}

func renderSets(chart, namespace string, sets ...string) ([]byte, error) {
	values := map[string]any{}
	var errs []error
	for _, s := range sets {
		errs = append(errs, strvals.ParseInto(s, values))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return render(chart, namespace, values)
}
