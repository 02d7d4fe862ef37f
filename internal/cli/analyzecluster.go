package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/analyze"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// analyzedCluster is the cluster whose objects weft analyze reads.
type analyzedCluster struct {
	survey.Options
	asked     bool   // though there are manifests
	namespace string // the one whose findings are shown; "" for all
	secrets   bool
}

func (c *analyzedCluster) flags(f *pflag.FlagSet) {
	f.BoolVar(&c.asked, "cluster", false, "with -f: read the objects of the cluster too")
	f.StringVarP(&c.namespace, "namespace", "n", "", "of a cluster, only what is wrong in this namespace")
	f.BoolVar(&c.secrets, "secrets", false, "of a cluster, read the Secrets with certificates of Gateways too")
	apiServerFlags(f, &c.Options)
}

// unused returns an error if a flag is given that is of a cluster, where none is asked.
func (c *analyzedCluster) unused(f *pflag.FlagSet) error {
	for _, name := range []string{"namespace", "secrets", "kubeconfig", "context"} {
		if f.Changed(name) {
			return fmt.Errorf("--%s is of a cluster, and with -f none is asked: give --cluster too", name)
		}
	}
	return nil
}

// read reads the objects of the cluster, and manifests that change them. What could not be read is a complaint.
func (c *analyzedCluster) read(ctx context.Context, paths []string, in io.Reader, complaints io.Writer) (*analyze.Mesh, error) {
	api, err := survey.Open(c.Options)
	if err != nil {
		if len(paths) == 0 {
			err = fmt.Errorf("%w; or name manifests by -f", err)
		}
		return nil, err
	}
	read, err := api.Manifests(ctx, c.namespace)
	if err != nil {
		return nil, err
	}
	if len(read.Forbidden) > 0 && c.namespace == "" {
		return nil, fmt.Errorf("%s: you may not list %s in all namespaces; use -n for one namespace", api.Host(), strings.Join(read.Forbidden, ", "))
	}
	mesh, err := analyze.ReadBeside(analyze.Cluster{
		Documents: read.Documents,
		Referenced: func(configMaps, secrets []string) ([][]byte, error) {
			return c.referenced(ctx, api, read, configMaps, secrets)
		},
	}, paths, in)
	if err != nil {
		return nil, err
	}
	if len(read.Elsewhere) > 0 {
		fmt.Fprintf(complaints, "Read only in namespace %s: %s; findings about references to other namespaces may be wrong\n", printable(c.namespace), printable(strings.Join(read.Elsewhere, ", ")))
	}
	if len(read.Forbidden) > 0 {
		fmt.Fprintf(complaints, "Not permitted to read %s; findings about references to it may be wrong\n", printable(strings.Join(read.Forbidden, ", ")))
	}
	return mesh, nil
}

// referenced reads what objects refer to by name, as documents.
func (c *analyzedCluster) referenced(ctx context.Context, api *survey.Cluster, read *survey.Manifests, configMaps, secrets []string) ([][]byte, error) {
	first := len(read.Documents)
	if err := read.Add(ctx, api, "ConfigMap", configMaps); err != nil {
		return nil, err
	}
	if c.secrets {
		before := len(read.Forbidden)
		if err := read.Add(ctx, api, "Secret", secrets); err != nil {
			return nil, err
		}
		secrets = nil
		for _, what := range read.Forbidden[before:] {
			secrets = append(secrets, strings.TrimPrefix(what, "Secret "))
		}
	}
	if len(secrets) > 0 {
		standIns, err := analyze.StandIns(secrets)
		if err != nil {
			return nil, err
		}
		read.Documents = append(read.Documents, standIns)
	}
	return read.Documents[first:], nil
}

// in returns the findings of the namespace that was asked for.
func (c *analyzedCluster) in(all []analyze.Finding) []analyze.Finding {
	return slices.DeleteFunc(all, func(f analyze.Finding) bool {
		of := f.Object.Namespace
		if f.Object.Kind == "Namespace" {
			of = f.Object.Name
		}
		return c.namespace != "" && f.File == "" && of != c.namespace
	})
}
