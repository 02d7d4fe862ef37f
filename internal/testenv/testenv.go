// Package testenv tells tests what this machine lets them do. Where CI is set, what is missing fails the test: there a
// skip would hide a test that never runs.
package testenv

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
)

// Missing skips a test for what this machine lacks, or fails it where CI is set.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Root needs root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// Envoy finds the real Envoy: $ENVOY, bin/envoy of the repository (make envoy), or PATH.
func Envoy(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	for _, p := range []string{os.Getenv("ENVOY"), filepath.Join(filepath.Dir(file), "../../bin/envoy")} {
		if p != "" {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	p, err := exec.LookPath("envoy")
	if err != nil {
		Missing(t, "needs Envoy: make envoy")
	}
	return p
}

// Lab makes a lab that ends with the test, with a prefix and a subnet that no other test of this machine has. It needs
// root.
func Lab(t testing.TB) *lab.Lab {
	t.Helper()
	Root(t)
	n := claim(t)
	l, err := lab.New(fmt.Sprintf("wtest%d", n), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 81, byte(n), 0}), 24))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Pod adds a pod to a lab.
func Pod(t testing.TB, l *lab.Lab, name string) *lab.Pod {
	t.Helper()
	p, err := l.AddPod(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Addrs parses addresses.
func Addrs(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParseAddr(t)
	}
	return out
}
