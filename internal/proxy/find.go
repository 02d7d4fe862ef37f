package proxy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Find looks for an Envoy binary: $ENVOY, then PATH, then next to this executable.
func Find() (string, error) {
	if p := os.Getenv("ENVOY"); p != "" {
		abs, err := executable(p)
		if err != nil {
			return "", fmt.Errorf("$ENVOY: %w", err)
		}
		return abs, nil
	}
	if p, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(p)
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("no envoy in PATH, and this executable has no path: %w", err)
	}
	p := filepath.Join(filepath.Dir(self), "envoy")
	if _, err := executable(p); err != nil {
		return "", fmt.Errorf("no Envoy found: $ENVOY is not set, there is no envoy in PATH, and %w; `make envoy` gets one", err)
	}
	return p, nil
}

func executable(path string) (string, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if fi.IsDir() || fi.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not an executable file", path)
	}
	return filepath.Abs(path)
}
