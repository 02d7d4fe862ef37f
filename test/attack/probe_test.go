package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// getSpec asks for URLs, each on a connection of its own.
type getSpec struct{ URLs []string }

// getAll reports how many answers there were, of any status.
func getAll(s getSpec) (r report, err error) {
	for _, url := range s.URLs {
		if err := asKubelet(url); err != nil {
			r.Refused++
		} else {
			r.Done++
		}
	}
	return r, nil
}

// asKubelet asks as a kubelet's probe does.
func asKubelet(url string) error {
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// probedPort attacks the port at which a strict pod declares GET /healthz. This process is on the node and in no pod, as
// the kubelet is.
func probedPort(t *testing.T, a *arena) string {
	var reached atomic.Int64
	serveOn(t, a.probed, ":8081", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.URL.RawQuery != "" {
			reached.Add(1)
		}
	}))
	victim := "http://" + netip.AddrPortFrom(a.probed.Address, 8081).String()
	serveOn(t, a.accomplice, ":8082", http.RedirectHandler(victim+"/admin", http.StatusFound))
	until(t, "the kubelet's probe is answered", func() error { return asKubelet(victim + "/healthz") })

	// A tenant's probe that names a host, and a hook that is answered with a redirect, lead the kubelet here.
	undeclared := []string{
		victim + "/admin", victim + "/healthz?x=1", victim + "//healthz", victim + "/healthz/",
		"http://" + netip.AddrPortFrom(a.accomplice.Address, 8082).String() + "/started",
	}
	for _, url := range undeclared {
		if err := asKubelet(url); !errors.Is(err, syscall.EACCES) {
			t.Errorf("the kubelet is led to %s: %v, want it refused", url, err)
		}
	}
	r := fromHostNetwork(t, a.mallory, getSpec{append(undeclared, victim+"/healthz")})
	if r.Done > 0 {
		t.Errorf("a pod in the host's network got %d answers", r.Done)
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d requests that are not declared reached the pod", n)
	}
	return fmt.Sprintf("%d requests of the node and %d of a pod in its network refused", len(undeclared), r.Refused)
}

// serveOn serves in a pod, in this process.
func serveOn(t *testing.T, p *lab.Pod, address string, h http.Handler) {
	t.Helper()
	l, err := p.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// fromHostNetwork asks from a process in a pod's cgroup and in the node's network, as a pod in the host's network does.
func fromHostNetwork(t *testing.T, p *lab.Pod, spec getSpec) report {
	t.Helper()
	root, err := lab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	cgroup, err := os.Open(filepath.Join(root, p.Cgroup))
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{t: t, cmd: exec.Command("/proc/self/exe", string(text))}
	a.cmd.Env = append(os.Environ(), roleVariable+"=get")
	a.cmd.Stdout, a.cmd.Stderr = &a.out, &a.err
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return a.wait()
}
