package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/observe"
)

const (
	// sysdumpWithin bounds a whole sysdump.
	sysdumpWithin = 10 * time.Minute
	// sysdumpFlows is how many of a node's last flows are taken.
	sysdumpFlows = 10_000
)

func newSysdumpCmd(o Options, run *string, now func() time.Time) *cobra.Command {
	r := reach{run: run}
	var file string
	cmd := &cobra.Command{
		Use:   "sysdump",
		Short: "Collect what a bug report needs in one archive, without keys and Secrets",
		Long: `Collect what a bug report needs in one archive: of each node its status, what it made of the objects, its last flows and its
Envoy's configuration; of a cluster also what weft check finds, and the logs, workloads and events of the mesh's namespace.

Keys, Secrets and the environment of pods are not in it. Names, addresses, labels and the paths of requests are: read it
before you give it away. What could not be had is listed in errors.txt, and the exit status is 1 then.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), sysdumpWithin)
			defer cancel()
			name := "weft-sysdump-" + now().UTC().Format("20060102-150405")
			file = cmp.Or(file, name+".tar.gz")
			d := &sysdump{root: name, now: now}
			d.put("version.json", version{Weft: Version(o.Version), Envoy: o.Envoy}, nil)
			err := d.write(file, func() error { return d.collect(ctx, &r) })
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files\n", file, d.count)
			if len(d.errors) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d things are missing; errors.txt names them. The first: %s\n", len(d.errors), printable(d.errors[0]))
				return ErrUnhealthy
			}
			return nil
		},
	}
	r.flags(cmd.Flags())
	cmd.Flags().StringVarP(&file, "output-file", "f", "", "the archive (default weft-sysdump-TIME.tar.gz)")
	return cmd
}

// sysdump is an archive that is being written.
type sysdump struct {
	collection
	root  string
	now   func() time.Time
	tar   *tar.Writer
	count int // of the files in it
}

// collection is files that are to come into an archive, and what could not be had.
type collection struct {
	files  []dumpFile
	errors []string
}

type dumpFile struct {
	name string
	text []byte
}

// put takes a text, or a value as JSON, or the error that came in its place.
func (c *collection) put(name string, v any, err error) {
	text, ok := v.([]byte)
	if err == nil && !ok {
		text, err = json.MarshalIndent(v, "", " ")
	}
	if err != nil {
		c.errors = append(c.errors, name+": "+err.Error())
		return
	}
	c.files = append(c.files, dumpFile{name, text})
}

func (d *sysdump) collect(ctx context.Context, r *reach) error {
	if c := r.local(); c != nil {
		n, err := nodeFiles(ctx, c)
		if err != nil {
			return err
		}
		return d.add("node", n, nil)
	}
	f, err := r.open(ctx)
	if err != nil {
		return err
	}
	results, err := (&checker{cluster: r.clusterFlags, now: d.now}).after(ctx)
	var text bytes.Buffer
	if err == nil {
		err = printResults(&text, results)
	}
	d.put("check.txt", text.Bytes(), err)
	files := func(c *api.Client, ctx context.Context) (*collection, error) { return nodeFiles(ctx, c) }
	for some := range slices.Chunk(f.agents, askAtOnce) { // no more of them are in memory than are asked at once
		for _, a := range ask(ctx, f, some, files) {
			if err := d.add(path.Join("nodes", a.node), a.value, a.err); err != nil {
				return err
			}
		}
	}
	return d.namespace(ctx, f)
}

// namespace adds what the API server knows of the mesh's namespace.
func (d *sysdump) namespace(ctx context.Context, f *fleet) error {
	for what, objects := range f.cluster.Inventory(ctx, f.namespace) {
		d.put(path.Join("cluster", what+".json"), objects.Items, objects.Err)
	}
	var broken error // of the archive
	err := f.cluster.Logs(ctx, f.namespace, func(l survey.Log) error {
		name := l.Container + ".log"
		if l.Previous {
			name = l.Container + ".previous.log"
		}
		d.put(path.Join("logs", l.Pod, name), l.Text, l.Err)
		broken = d.flush()
		return broken
	})
	if err != nil && broken == nil {
		d.errors = append(d.errors, "logs: "+err.Error())
	}
	return broken
}

// add takes a node's files into a folder.
func (d *sysdump) add(folder string, n *collection, err error) error {
	if err != nil {
		d.errors = append(d.errors, folder+": "+err.Error())
	}
	if n == nil {
		return nil
	}
	for _, f := range n.files {
		d.files = append(d.files, dumpFile{path.Join(folder, f.name), f.text})
	}
	for _, e := range n.errors {
		d.errors = append(d.errors, path.Join(folder, e))
	}
	return d.flush()
}

// nodeFiles asks an agent for all that it tells. It is an error if it does not answer at all.
func nodeFiles(ctx context.Context, c *api.Client) (*collection, error) {
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	d := &collection{}
	d.put("status.json", st, nil)
	for _, what := range []string{api.Services, api.Routes, api.AllEndpoints, api.Identities, api.Certificates, api.Policies, api.Gateways, api.Statuses} {
		list, err := api.List[json.RawMessage](ctx, c, what, "", "")
		d.put(path.Join("config", what+".json"), list, err)
	}
	for _, what := range []string{api.EnvoyDump, api.EnvoyClusters} {
		text, err := c.InspectEnvoy(ctx, what)
		d.put(path.Join("envoy", what+".json"), text, err)
	}
	var flows bytes.Buffer
	enc := json.NewEncoder(&flows)
	err = c.Flows(ctx, api.FlowQuery{Limit: sysdumpFlows}, func(e observe.Event) error { return enc.Encode(e) })
	d.put("flows.jsonl", flows.Bytes(), err)
	return d, nil
}

// write makes an archive of what collect puts into it. A file that is there is not replaced.
func (d *sysdump) write(file string, collect func() error) error {
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the archive: %w", err)
	}
	z := gzip.NewWriter(out)
	d.tar = tar.NewWriter(z)
	err = collect()
	if err == nil && len(d.errors) > 0 {
		d.put("errors.txt", []byte(strings.Join(d.errors, "\n")+"\n"), nil)
	}
	if err == nil {
		err = d.flush()
	}
	if err = errors.Join(err, d.tar.Close(), z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}

// flush writes what was put.
func (d *sysdump) flush() error {
	for _, f := range d.files {
		h := &tar.Header{Name: path.Join(d.root, f.name), Mode: 0o600, Size: int64(len(f.text)), ModTime: d.now()}
		if err := d.tar.WriteHeader(h); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
		if _, err := d.tar.Write(f.text); err != nil {
			return fmt.Errorf("write the archive: %w", err)
		}
	}
	d.count += len(d.files)
	d.files = nil
	return nil
}
