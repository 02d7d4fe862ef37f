package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// modules pins what is built: a go.mod and a go.sum a component.
//
//go:embed modules
var modules embed.FS

// toolchain builds the components: the Go that their releases are made with, which the go command fetches. It may be older
// than this module's.
const toolchain = "go1.26.8"

// component is a Go module whose commands are built.
type component struct {
	name     string            // of modules/NAME.mod
	path     string            // module path whose version counts
	binaries map[string]string // name of the binary -> package
	tags     string
	ldflags  func(version string) string
}

var components = []component{
	{name: "etcd", path: "go.etcd.io/etcd/server/v3", binaries: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"}},
	{name: "kubernetes", path: "k8s.io/kubernetes", ldflags: kubernetesVersion,
		binaries: map[string]string{
			"kube-apiserver":          "k8s.io/kubernetes/cmd/kube-apiserver",
			"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
			"kube-scheduler":          "k8s.io/kubernetes/cmd/kube-scheduler",
			"kubelet":                 "k8s.io/kubernetes/cmd/kubelet",
			"kubectl":                 "k8s.io/kubernetes/cmd/kubectl",
		}},
	{name: "containerd", path: "github.com/containerd/containerd/v2", tags: "no_btrfs,no_devmapper,no_zfs",
		binaries: map[string]string{
			"containerd":              "github.com/containerd/containerd/v2/cmd/containerd",
			"containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			"ctr":                     "github.com/containerd/containerd/v2/cmd/ctr",
		}},
	{name: "coredns", path: "github.com/coredns/coredns", binaries: map[string]string{"coredns": "github.com/coredns/coredns"}},
	{name: "gatewayecho", path: "sigs.k8s.io/gateway-api/conformance",
		binaries: map[string]string{"echo-basic": "sigs.k8s.io/gateway-api/conformance/echo-basic"}},
	{name: "istioecho", path: "istio.io/istio",
		binaries: map[string]string{
			"echo-client": "istio.io/istio/pkg/test/echo/cmd/client",
			"echo-server": "istio.io/istio/pkg/test/echo/cmd/server",
		}},
	{name: "pause", binaries: map[string]string{"pause": "."}},
}

// Everything is what a cluster with nodes needs, in the order in which it is built.
var Everything = []string{
	"etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet",
	"containerd", "containerd-shim-runc-v2", "ctr", "pause", "coredns", "echo-basic", "echo-server", "echo-client",
}

// Binaries are the paths of built binaries by name.
type Binaries map[string]string

// Build builds the binaries named, those that the cache lacks, one after another and at the lowest priority. Builds on
// one machine wait for each other.
func Build(ctx context.Context, log *slog.Logger, names ...string) (Binaries, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	out := Binaries{}
	for _, name := range names {
		c, err := componentOf(name)
		if err != nil {
			return nil, err
		}
		if out[name], err = c.build(ctx, log, cache, name); err != nil {
			return nil, fmt.Errorf("build %s: %w", name, err)
		}
	}
	return out, nil
}

func componentOf(binary string) (component, error) {
	for _, c := range components {
		if _, ok := c.binaries[binary]; ok {
			return c, nil
		}
	}
	return component{}, fmt.Errorf("no component builds %q: have %s", binary, strings.Join(Everything, ", "))
}

func (c component) build(ctx context.Context, log *slog.Logger, cache, name string) (string, error) {
	sources, err := c.sources()
	if err != nil {
		return "", err
	}
	version, key := c.version(sources["go.mod"]), c.key(sources)
	path := filepath.Join(cache, "bin", key, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, "build.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // built by whom we waited for
		return path, nil
	}
	dir := filepath.Join(cache, "src", key)
	if err := writeFiles(dir, sources); err != nil {
		return "", err
	}
	log.Info("building", "binary", name, "version", version)
	start := time.Now()
	if err := c.goBuild(ctx, dir, c.binaries[name], version, path); err != nil {
		return "", err
	}
	log.Info("built", "binary", name, "seconds", int(time.Since(start).Seconds()))
	return path, nil
}

// goBuild writes the binary at once or not at all. Libraries of C are left out: binaries run in images without any.
func (c component) goBuild(ctx context.Context, dir, pkg, version, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	ldflags := "-s -w"
	if c.ldflags != nil {
		ldflags += " " + c.ldflags(version)
	}
	args := []string{"-n", "19", "go", "build", "-trimpath", "-ldflags", ldflags, "-o", path + ".new"}
	if c.tags != "" {
		args = append(args, "-tags="+c.tags)
	}
	cmd := exec.CommandContext(ctx, "nice", append(args, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN="+toolchain, "GOWORK=off", "GO111MODULE=on", "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s in %s: %w\n%s", pkg, dir, err, tail(out, 20))
	}
	return os.Rename(path+".new", path)
}

// sources are the files of the component's module by name.
func (c component) sources() (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, file := range map[string]string{"go.mod": ".mod", "go.sum": ".sum", "main.go": ".go.txt"} {
		b, err := modules.ReadFile("modules/" + c.name + file)
		if err == nil {
			out[name] = b
		}
	}
	if out["go.mod"] == nil {
		return nil, fmt.Errorf("modules/%s.mod: %w", c.name, fs.ErrNotExist)
	}
	return out, nil
}

// version is what the module requires of the component's path, "v0.0.0" of a module without one.
func (c component) version(mod []byte) string {
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(f) >= 2 && f[0] == c.path && strings.HasPrefix(f[1], "v") {
			return f[1]
		}
	}
	return "v0.0.0"
}

// key names the component's folder in the cache: all that its binaries depend on goes into it.
func (c component) key(sources map[string][]byte) string {
	h := sha256.New()
	version := c.version(sources["go.mod"])
	fmt.Fprintf(h, "%s %s %s %q\n", toolchain, runtime.GOARCH, c.name, c.tags)
	if c.ldflags != nil {
		fmt.Fprintln(h, c.ldflags(version))
	}
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		fmt.Fprintf(h, "%s %d\n", name, len(sources[name]))
		h.Write(sources[name])
	}
	return c.name + "-" + version + "-" + hex.EncodeToString(h.Sum(nil))[:12]
}

// kubernetesVersion says to the binaries what they are: without it the API server reports v0.0.0.
func kubernetesVersion(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X "+pkg+".gitVersion="+version)
		if len(parts) == 3 {
			flags = append(flags, "-X "+pkg+".gitMajor="+parts[0], "-X "+pkg+".gitMinor="+parts[1])
		}
	}
	return strings.Join(flags, " ")
}

func writeFiles(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tail is the last n lines.
func tail(b []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
