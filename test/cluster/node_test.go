package cluster

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestNameservers(t *testing.T) {
	for conf, want := range map[string][]string{
		"":                        {"192.0.2.9"},
		"nameserver 127.0.0.53\n": {"192.0.2.9"},
		"# c\nsearch a b\nnameserver 192.0.2.1\nnameserver ::1\nnameserver 2001:db8::1 # x\n": {"192.0.2.1", "2001:db8::1"},
		"nameserver\n": {"192.0.2.9"},
	} {
		if got := nameservers(conf, "192.0.2.9"); !slices.Equal(got, want) {
			t.Errorf("name servers of %q: got %v, want %v", conf, got, want)
		}
	}
}

func TestCgroupMounts(t *testing.T) {
	hybrid := "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	if got := cgroupMounts(strings.NewReader(hybrid)); !slices.Equal(got, []string{"/sys/fs/cgroup/cpu"}) {
		t.Errorf("both versions: %v", got)
	}
	if got := cgroupMounts(strings.NewReader("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")); len(got) != 0 {
		t.Errorf("version 2 alone: %v", got)
	}
}

func TestRemoveTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "wcl")
	if err := os.MkdirAll(filepath.Join(root, "n1", "pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to remove
		if err := removeTree(root); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", root, err)
	}
}

func TestCheckDir(t *testing.T) {
	for dir, good := range map[string]bool{
		"/home/a/.cache/weft-cluster": true, "/variety/x": true, "/var": false, "/var/cache/x": false, "/run/x": false, "/etc/x": false,
	} {
		if err := checkDir(dir); (err == nil) != good {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestCNIConfigNamesTheNodesRange(t *testing.T) {
	n := node{name: "n3", podCIDR: podCIDR(3)}
	var conf struct {
		CNIVersion string
		Plugins    []struct {
			Type string
			IPAM struct {
				Ranges [][]struct{ Subnet netip.Prefix }
			}
		}
	}
	if err := json.Unmarshal(n.cniConfig(), &conf); err != nil {
		t.Fatal(err)
	}
	if got := conf.Plugins[0].IPAM.Ranges[0][0].Subnet; got != netip.MustParsePrefix("10.244.3.0/24") {
		t.Errorf("range %s", got)
	}
}

func TestUpRefusesBadCounts(t *testing.T) {
	for _, nodes := range []int{-1, 0, 9} {
		if _, err := Up(t.Context(), nil, nodes); err == nil {
			t.Errorf("%d nodes: no error", nodes)
		}
	}
}

func TestImageHasItsNamesAndFiles(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "binary")
	if err := os.WriteFile(binary, []byte("ELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := image{
		names: []string{"registry.example/a:v1", "registry.example/b:v2"}, entrypoint: "/usr/bin/a",
		binaries: map[string]string{"/usr/bin/a": "a"}, files: map[string][]byte{"/f": []byte("text")},
	}
	archive := filepath.Join(dir, "a.tar")
	if err := img.write(archive, Binaries{"a": binary}); err != nil {
		t.Fatal(err)
	}
	for _, n := range img.names {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tarball.ImageFromPath(archive, &tag)
		if err != nil {
			t.Fatalf("%s: %v", n, err)
		}
		config, err := got.ConfigFile()
		if err != nil || !slices.Equal(config.Config.Entrypoint, []string{"/usr/bin/a"}) {
			t.Errorf("%s: entry point %v, %v", n, config.Config.Entrypoint, err)
		}
		if files := untar(t, mutate.Extract(got)); files["usr/bin/a"] != "ELF" || files["f"] != "text" || len(files) != 2 {
			t.Errorf("%s: files %v", n, files)
		}
	}
	if err := img.write(archive, Binaries{}); err == nil {
		t.Error("an image without its binary was written")
	}
}

func untar(t *testing.T, r io.ReadCloser) map[string]string {
	t.Helper()
	defer r.Close()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := io.Copy(&b, tr); err != nil {
			t.Fatal(err)
		}
		out[h.Name] = b.String()
	}
}
