package attack

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// neededCapabilities are what Envoy and weft tunnel keep of root, at most.
const neededCapabilities = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_DAC_READ_SEARCH

// privileges: Envoy and weft tunnel hold few capabilities, have no way to get more, and have a seccomp filter.
func privileges(t *testing.T, a *arena) string {
	st, err := a.Proxy.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Tunnel == nil || st.Tunnel.PID == 0 || st.PID == 0 {
		t.Fatalf("no process: %+v", st)
	}
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapAmb"}
	if capabilities(t, procStatus(t, os.Getpid()), "CapEff")&(1<<unix.CAP_SETPCAP) != 0 {
		sets = append(sets, "CapBnd") // else nobody but the container runtime may take from it
	}
	var figure []string
	for _, p := range []struct {
		name string
		pid  int
	}{{"Envoy", st.PID}, {"weft tunnel", st.Tunnel.PID}} {
		status := procStatus(t, p.pid)
		if status["NoNewPrivs"] != "1" || status["Seccomp"] != "2" {
			t.Errorf("%s: NoNewPrivs %q, Seccomp %q, want 1 and 2", p.name, status["NoNewPrivs"], status["Seccomp"])
		}
		for _, set := range sets {
			if caps := capabilities(t, status, set); caps&^neededCapabilities != 0 {
				t.Errorf("%s has %s %x, want none beyond %x", p.name, set, caps, neededCapabilities)
			}
		}
		figure = append(figure, fmt.Sprintf("%s: %d capabilities", p.name, bits.OnesCount64(capabilities(t, status, "CapPrm"))))
	}
	return strings.Join(figure, ", ")
}

// capabilities returns a set in a process's status.
func capabilities(t *testing.T, status map[string]string, set string) uint64 {
	t.Helper()
	caps, err := strconv.ParseUint(status[set], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return caps
}

// procStatus reads /proc/PID/status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			out[key] = strings.TrimSpace(value)
		}
	}
	return out
}
