package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// sandboxImage holds the namespaces of each pod.
const sandboxImage = "registry.k8s.io/pause:3.10"

// coreDNSImage is the cluster's DNS server, as manifests/coredns.yaml names it.
const coreDNSImage = "registry.k8s.io/coredns/coredns:v1.12.2"

// image is a container image of one layer, made of the cache's binaries and of files.
type image struct {
	names      []string          // what manifests call it
	entrypoint string            // path in the image
	binaries   map[string]string // path in the image -> name of the binary
	files      map[string][]byte // path in the image -> content
}

// images are those that the nodes have from the start: no registry is asked. The names are those that the Gateway API
// conformance suite and its echo servers use.
func images() ([]image, error) {
	cert, key, err := echoCertificate()
	if err != nil {
		return nil, err
	}
	const gateway = "registry.k8s.io/gateway-api/conformance/"
	return []image{
		{names: []string{sandboxImage}, entrypoint: "/pause", binaries: map[string]string{"/pause": "pause"}},
		{names: []string{coreDNSImage}, entrypoint: "/coredns", binaries: map[string]string{"/coredns": "coredns"}},
		{
			names:      []string{gateway + "echo-basic:v0.1.0", gateway + "echo-basic:v0.2.0"},
			entrypoint: "/echo-basic", binaries: map[string]string{"/echo-basic": "echo-basic"},
		},
		{
			names:      []string{gateway + "echo-advanced:v0.1.0"},
			entrypoint: "/server", binaries: map[string]string{"/server": "echo-server", "/usr/local/bin/client": "echo-client"},
			files: map[string][]byte{"/cert.crt": cert, "/cert.key": key},
		},
	}, nil
}

// echoCertificate is for the TLS ports of the echo server; clients of the tests do not verify it.
func echoCertificate() (cert, key []byte, err error) {
	dir, err := os.MkdirTemp("", "weft-cluster")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a, err := newAuthority(dir)
	if err != nil {
		return nil, nil, err
	}
	return a.sign(subject{name: "echo", hosts: []string{"echo"}})
}

// writeImages writes the archives into dir, and gives their paths.
func writeImages(ctx context.Context, log *slog.Logger, dir string, bin Binaries) ([]string, error) {
	all, err := images()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var out []string
	for _, img := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, strings.TrimPrefix(img.entrypoint, "/")+".tar")
		if err := img.write(path, bin); err != nil {
			return nil, fmt.Errorf("image %s: %w", img.names[0], err)
		}
		log.Debug("image written", "image", img.names[0], "path", path)
		out = append(out, path)
	}
	return out, nil
}

// WriteImage writes a Docker archive with an image of one static binary, its entry point, for ImportImages.
func WriteImage(archive, name, entrypoint, binary string) error {
	img := image{names: []string{name}, entrypoint: entrypoint, binaries: map[string]string{entrypoint: "binary"}}
	return img.write(archive, Binaries{"binary": binary})
}

// write writes a Docker archive, which holds the image under all its names.
func (i image) write(path string, bin Binaries) error {
	layer, err := i.layer(bin)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, i.config(img))
	if err != nil {
		return err
	}
	refs := map[name.Reference]v1.Image{}
	for _, n := range i.names {
		tag, err := name.NewTag(n, name.StrictValidation)
		if err != nil {
			return err
		}
		refs[tag] = img
	}
	return tarball.MultiRefWriteToFile(path, refs)
}

func (i image) config(img v1.Image) *v1.ConfigFile {
	c := &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH}
	c.Config = v1.Config{Entrypoint: []string{i.entrypoint}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}, WorkingDir: "/"}
	if have, err := img.ConfigFile(); err == nil {
		c.RootFS, c.History = have.RootFS, have.History
	}
	return c
}

// layer is not compressed: it goes no further than this machine's disk.
func (i image) layer(bin Binaries) (v1.Layer, error) {
	files := map[string][]byte{}
	for path, b := range i.files {
		files[path] = b
	}
	for path, binary := range i.binaries {
		b, err := os.ReadFile(bin[binary])
		if err != nil {
			return nil, err
		}
		files[path] = b
	}
	var buf bytes.Buffer
	if err := writeTar(&buf, files); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithCompression(compression.None))
}

func writeTar(w io.Writer, files map[string][]byte) error {
	t := tar.NewWriter(w)
	for path, b := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(b))}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(b); err != nil {
			return err
		}
	}
	return t.Close()
}
