package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// entries lists an archive: "name", "name -> link", or "name mode content".
func entries(t *testing.T, r io.Reader) []string {
	t.Helper()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.IsZero() && h.ModTime.Unix() != 0 || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: time %v, owner %d:%d", h.Name, h.ModTime, h.Uid, h.Gid)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out = append(out, h.Name)
		case tar.TypeSymlink:
			out = append(out, h.Name+" -> "+h.Linkname)
		default:
			out = append(out, h.Name+" "+h.FileInfo().Mode().String()+" "+string(b))
		}
	}
}

func testFiles(t *testing.T) []file {
	t.Helper()
	source := filepath.Join(t.TempDir(), "weft")
	if err := os.WriteFile(source, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []file{
		{path: "usr/bin/weft", source: source, mode: 0o755},
		{path: "lib64/ld.so", link: "/lib/ld.so"},
		{path: "lib/ld.so", content: []byte("loader"), mode: 0o755},
	}
}

func TestWriteTar(t *testing.T) {
	var b bytes.Buffer
	if err := writeTar(&b, testFiles(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{"lib/", "lib/ld.so -rwxr-xr-x loader", "lib64/", "lib64/ld.so -> /lib/ld.so", "usr/", "usr/bin/", "usr/bin/weft -rwxr-xr-x binary"}
	if got := entries(t, &b); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := writeTar(&b, []file{{path: "x", source: "/no/such"}}); err == nil {
		t.Error("a source that is missing is no error")
	}
}

func TestFromPackage(t *testing.T) {
	target := targets["amd64"]
	var b bytes.Buffer
	if err := writeTar(&b, []file{
		{path: "./lib/x86_64-linux-gnu/libc.so.6", content: []byte("c"), mode: 0o644},
		{path: "./lib/x86_64-linux-gnu/libm.so.6", content: []byte("m"), mode: 0o644},
		{path: "./lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", content: []byte("loader"), mode: 0o644},
		{path: "./usr/share/doc/libc6/copyright", content: []byte("licence"), mode: 0o644},
	}); err != nil {
		t.Fatal(err)
	}
	files, err := fromPackage(b.Bytes(), target, []string{"libc.so.6", "ld-linux-x86-64.so.2"})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range byPath(files) {
		paths = append(paths, f.path)
	}
	want := []string{
		"lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6",
		"lib64/ld-linux-x86-64.so.2", "usr/share/doc/libc6/copyright",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("%q, want %q", paths, want)
	}
	if _, err := fromPackage(b.Bytes(), target, []string{"libz.so"}); err == nil || !strings.Contains(err.Error(), "libz.so") {
		t.Errorf("a library that the package lacks: %v", err)
	}
}

// TestArchives builds images twice and compares what is written, by what takes them.
func TestArchives(t *testing.T) {
	files := testFiles(t)
	build := func() options {
		o := options{arches: []string{"amd64", "arm64"}, out: t.TempDir(), repository: "example.com/x", tag: "1"}
		o.cache = filepath.Join(o.out, "cache")
		if err := os.Mkdir(o.cache, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := o.write(testArchives(files)); err != nil {
			t.Fatal(err)
		}
		return o
	}
	first, second := build(), build()
	for _, a := range []string{"weft.tar", "weft-amd64.tar", "weft-arm64.tar", "weft-controller.tar", "weft-controller-amd64.tar"} {
		x, err := os.ReadFile(filepath.Join(first.out, a))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(second.out, a))
		if err != nil || !bytes.Equal(x, y) {
			t.Errorf("%s: %d and %d bytes, %v: the same sources give another archive", a, len(x), len(y), err)
		}
	}
	checkImage(t, first)
	checkIndex(t, filepath.Join(first.out, "weft.tar"))

	// What has not changed stays; what has does not.
	path := filepath.Join(first.out, "weft-amd64.tar")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.write(testArchives(files)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is written again without a change: %v", err)
	}
	files[2].content = []byte("another")
	if err := first.write(testArchives(files)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || os.SameFile(before, after) {
		t.Errorf("a change is not written: %v", err)
	}
}

func testArchives(files []file) []archive {
	var out []archive
	for _, arch := range []string{"amd64", "arm64"} {
		out = append(out,
			archive{name: "weft", arch: arch, layers: [][]file{files[1:], files[:1]}},
			archive{name: "weft-controller", arch: arch, user: "65532:65532", layers: [][]file{files[:1]}})
	}
	return out
}

// checkImage reads the controller's image for arm64 as a container engine does.
func checkImage(t *testing.T, o options) {
	t.Helper()
	tag, err := name.NewTag("example.com/x/weft-controller:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(filepath.Join(o.out, "weft-controller-arm64.tar"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "arm64" || c.OS != "linux" || c.Config.User != "65532:65532" || !c.Created.IsZero() ||
		!slices.Equal(c.Config.Entrypoint, []string{"/usr/bin/weft"}) || len(c.RootFS.DiffIDs) != 1 {
		t.Errorf("configuration %+v", c)
	}
	content := mutate.Extract(img)
	defer content.Close()
	if got := entries(t, content); !slices.Contains(got, "usr/bin/weft -rwxr-xr-x binary") {
		t.Errorf("it holds %q", got)
	}
}

// checkIndex reads an OCI archive: its name is in the annotations, and the index inside names both architectures.
func checkIndex(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := map[string]string{}
	for _, e := range entries(t, f) {
		if p, text, ok := strings.Cut(e, " -rw-r--r-- "); ok {
			content[p] = text
		}
	}
	var outer, inner v1.IndexManifest
	if err := json.Unmarshal([]byte(content["index.json"]), &outer); err != nil || len(outer.Manifests) != 1 {
		t.Fatalf("index.json: %v in %s", err, content["index.json"])
	}
	if got := outer.Manifests[0].Annotations["io.containerd.image.name"]; got != "example.com/x/weft:1" {
		t.Errorf("the image's name is %q", got)
	}
	blob := content["blobs/sha256/"+outer.Manifests[0].Digest.Hex]
	if err := json.Unmarshal([]byte(blob), &inner); err != nil || len(inner.Manifests) != 2 {
		t.Fatalf("index of architectures: %v in %s", err, blob)
	}
	if a, b := inner.Manifests[0].Platform.Architecture, inner.Manifests[1].Platform.Architecture; a != "amd64" || b != "arm64" {
		t.Errorf("architectures %s and %s", a, b)
	}
}

func TestParse(t *testing.T) {
	t.Chdir("../..")
	o, err := parse(nil)
	if err != nil || o.tag == "" || !slices.Equal(o.arches, []string{"amd64", "arm64"}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{{"-arch", "riscv64"}, {"-libc", "musl"}, {"-no-such-flag"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
