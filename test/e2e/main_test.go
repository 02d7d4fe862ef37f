//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/test/cluster"
)

const (
	system       = "weft-system"
	upTimeout    = 10 * time.Minute
	settle       = 90 * time.Second // the longest that pods may take to run or a rollout to end
	measurements = "build/e2e.json"
)

// mesh is the cluster that all tests share.
var mesh *env

type env struct {
	*cluster.Cluster
	api  *client
	root string // of the repository
	dir  string // for files that end with the run
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("the suite needs root: it runs a cluster of namespaces")
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	e := &env{}
	if e.root, err = repository(); err != nil {
		return 1, err
	}
	if e.dir, err = os.MkdirTemp("", "weft-e2e"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(e.dir)
	began := time.Now()
	own, err := e.open(ctx)
	if own {
		defer func() { err = errors.Join(err, cluster.Down(context.Background())) }()
	}
	if err != nil {
		return 1, err
	}
	figures.add("cluster", "seconds to start", time.Since(began).Seconds())
	mesh = e
	code = m.Run()
	e.clear(context.Background())
	return code, figures.write(filepath.Join(e.root, measurements))
}

// open takes the cluster that is up, else brings one up, with Weft and the image of the tests' pods. own tells that it
// was brought up here.
func (e *env) open(ctx context.Context) (own bool, err error) {
	log := slog.Default()
	e.Cluster, err = cluster.Open(ctx, log)
	if errors.Is(err, cluster.ErrNone) {
		own = true
		e.Cluster, err = cluster.Up(ctx, log, 2)
	}
	if err != nil {
		return own, err
	}
	if e.api, err = newClient(e.API.Kubeconfig); err != nil {
		return own, err
	}
	return own, errors.Join(e.install(ctx), e.importWorkload(ctx))
}

func repository() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	return string(out[:len(out)-1]), nil
}

// figures are what was measured, by test.
var figures = &report{Tests: map[string]map[string]any{}}

type report struct {
	mu    sync.Mutex
	Tests map[string]map[string]any
}

func (r *report) add(test, name string, value any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Tests[test] == nil {
		r.Tests[test] = map[string]any{}
	}
	r.Tests[test][name] = value
}

func (r *report) write(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := json.MarshalIndent(r.Tests, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// measured prints a figure and keeps it.
func measured(t *testing.T, name string, value any) {
	t.Helper()
	if d, ok := value.(time.Duration); ok {
		t.Logf("%s: %s", name, d.Round(10*time.Microsecond))
		value = float64(d.Microseconds()) / 1000
		name += " (ms)"
	} else {
		t.Logf("%s: %v", name, value)
	}
	figures.add(t.Name(), name, value)
}
