// Command images builds Weft's container images, without a container engine:
//
//	go run ./install/images -arch amd64,arm64 -out build/images
//
// | image | holds | user |
// |---|---|---|
// | weft | /usr/bin/weft, /usr/bin/envoy and the C library that Envoy calls | root, for eBPF and namespaces |
// | weft-controller | /usr/bin/weft | 65532 |
//
// For each architecture it writes an archive of each image that docker, podman and ctr import (weft-amd64.tar); for
// several, one OCI archive too (weft.tar), which registries take. The same sources give the same bytes: nothing in them
// has a time. What has not changed is not written again. Envoy and the C library are pinned by hash (../envoy, libc.go)
// and kept in the folder cache of the output.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

// options of a run.
type options struct {
	arches     []string
	out        string
	cache      string
	repository string // what image names begin with
	tag        string
	hostLibc   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	var archives []archive
	for _, arch := range o.arches {
		images, err := o.images(ctx, arch)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		archives = append(archives, images...)
	}
	if err := o.write(archives); err != nil {
		return err
	}
	return o.prune()
}

func parse(args []string) (options, error) {
	f := flag.NewFlagSet("images", flag.ContinueOnError)
	arches := f.String("arch", "amd64,arm64", "architectures")
	out := f.String("out", "build/images", "folder for the archives")
	repository := f.String("repository", "ghcr.io/weft-mesh", "what the images' names begin with")
	tag := f.String("tag", "", "the images' tag (default: appVersion of install/chart/Chart.yaml)")
	libc := f.String("libc", "pinned", "the C library: pinned (Debian's package), or host (this machine's, for a cluster on it)")
	if err := f.Parse(args); err != nil {
		return options{}, err
	}
	o := options{
		arches: strings.Split(*arches, ","), out: *out, cache: filepath.Join(*out, "cache"),
		repository: *repository, tag: *tag, hostLibc: *libc == "host",
	}
	for _, a := range o.arches {
		if _, ok := targets[a]; !ok {
			return o, fmt.Errorf("-arch %q: amd64 and arm64 are supported", a)
		}
	}
	o.arches = slices.Compact(slices.Sorted(slices.Values(o.arches)))
	if *libc != "pinned" && *libc != "host" {
		return o, fmt.Errorf("-libc %q: pinned or host", *libc)
	}
	if o.tag == "" {
		version, err := appVersion("install/chart/Chart.yaml")
		if err != nil {
			return o, err
		}
		o.tag = version
	}
	return o, nil
}

// appVersion reads the version that the chart installs.
func appVersion(chart string) (string, error) {
	b, err := os.ReadFile(chart)
	if err != nil {
		return "", fmt.Errorf("which version to build: %w; run this in the repository's root, or give -tag", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "appVersion:"); ok {
			return strings.Trim(strings.TrimSpace(v), `"`), nil
		}
	}
	return "", fmt.Errorf("%s has no appVersion", chart)
}

// target is an architecture as others name it.
type target struct {
	wheel  string // platform tag of Envoy's wheel
	debian string // folder of the C library in Debian
	libc   string // SHA-256 of Debian's package libc6, of libcVersion
	loader string // path of the dynamic loader that binaries name
}

var targets = map[string]target{
	"amd64": {
		wheel: "manylinux_2_31_x86_64", debian: "x86_64-linux-gnu", loader: "lib64/ld-linux-x86-64.so.2",
		libc: "ba4f88f73dbc3ae9055f3c20f4523bfdbaf1ad13ff95e258924f77d20b4fbedf",
	},
	"arm64": {
		wheel: "manylinux_2_31_aarch64", debian: "aarch64-linux-gnu", loader: "lib/ld-linux-aarch64.so.1",
		libc: "01f4330719fd4f65580e16ea5a0527f372fca750e8f588d26deaf09f2d3b1cf4",
	},
}

// images gives the images of an architecture, each with its layers on disk.
func (o options) images(ctx context.Context, arch string) ([]archive, error) {
	weft, err := o.weft(ctx, arch)
	if err != nil {
		return nil, err
	}
	envoy, err := o.envoy(ctx, arch)
	if err != nil {
		return nil, err
	}
	libc, err := o.libc(ctx, arch, envoy)
	if err != nil {
		return nil, err
	}
	base := append([]file{{path: "usr/bin/envoy", source: envoy, mode: 0o755}}, libc...)
	binary := []file{{path: "usr/bin/weft", source: weft, mode: 0o755}}
	return []archive{
		// The layer of Envoy changes less often, so it comes first.
		{name: "weft", arch: arch, layers: [][]file{base, binary}},
		{name: "weft-controller", arch: arch, user: "65532:65532", layers: [][]file{binary}},
	}, nil
}
