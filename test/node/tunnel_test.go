package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// tunnelled: what happens to authenticated connections when a process ends.
func tunnelled(t *testing.T, m *mesh) {
	t.Run("agent away", func(t *testing.T) { agentAway(t, m) })
	t.Run("tunnel killed", func(t *testing.T) { tunnelKilled(t, m) })
	t.Run("weft proxy killed", func(t *testing.T) { supervisorKilled(t, m) })
	t.Run("another version", func(t *testing.T) { upgraded(t, m) })
}

// tunnels gives the processes that weft proxy remembers, by age.
func (m *mesh) tunnels() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(m.RunDir, "tunnel.json"))
	if err != nil {
		return nil, err
	}
	var r struct {
		Envoys []struct{ PID int }
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	var out []int
	for _, e := range r.Envoys {
		out = append(out, e.PID)
	}
	if len(out) == 0 {
		return nil, errors.New("none is remembered")
	}
	return out, nil
}

func (m *mesh) tunnelPID() (int, error) {
	all, err := m.tunnels()
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("%d tunnels are remembered", len(all))
	}
	return all[0], nil
}

// agentAway: connections live and new ones are made while no agent runs, also to a pod that was not spoken to before.
func agentAway(t *testing.T, m *mesh) {
	alice, bob, srv := m.Pod("strict", "alice"), m.Pod("strict", "bob"), m.Pod("strict", "srv")
	live := mustOpen(t, alice, at(srv.Address, 7070))
	m.restartAgent(t, func() {
		if err := live.echo("no agent"); err != nil {
			t.Error(err)
		}
		if err := mustOpen(t, alice, at(srv.Address, 7070)).echo("no agent"); err != nil {
			t.Error(err)
		}
		if err := refused(m.Pod("plain", "c"), at(srv.Address, 7070)); err != nil {
			t.Error(err)
		}
		// Nobody can say who is at an address that was not asked for: it is refused, and not sent in the clear.
		onlyTLS(t, bob, srv, func() error {
			_ = refused(bob, at(srv.Address6, 7070))
			return nil
		})
	})
	if err := live.echo("a new agent"); err != nil {
		t.Error(err)
	}
}

// onlyTLS fails the test if f makes bytes in the clear go between two pods.
func onlyTLS(t *testing.T, a, b *lab.Pod, f func() error) {
	t.Helper()
	c, err := capture.Start(b.HostLink)
	if err != nil {
		t.Fatal(err)
	}
	err = f()
	wire, cerr := c.Stop()
	if err = errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	for i := range both(a) {
		for port, n := range wire.Between(both(a)[i], both(b)[i]) {
			if port != model.PortTunnel && port != model.PortHBONE && n > 0 {
				t.Errorf("%d bytes at port %d", n, port)
			}
		}
	}
}

// tunnelKilled: connections end with a reset; new ones are authenticated all the time, by HBONE in between.
func tunnelKilled(t *testing.T, m *mesh) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
	live := mustOpen(t, alice, at(srv.Address, 7070))
	pid, err := m.tunnelPID()
	if err != nil {
		t.Fatal(err)
	}
	onlyTLS(t, alice, srv, func() error {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		if err := live.cut(); err != nil {
			t.Error(err)
		}
		until(t, "the next one", func() error {
			next, err := m.tunnelPID()
			if err == nil && next == pid {
				err = errors.New("the same")
			}
			if err == nil {
				err = m.reports(t, next)
			}
			if err == nil {
				var s *stream
				if s, err = open(alice, at(srv.Address, 7070)); err == nil {
					err = s.echo("again")
					_ = s.Close()
				}
			}
			return err
		})
		return nil
	})
}

// reports wants weft proxy to know of weft tunnel, and of the end of the one before it.
func (m *mesh) reports(t *testing.T, pid int) error {
	st, err := m.Proxy.Status(t.Context())
	if err != nil {
		return err
	}
	if s := st.Tunnel; s == nil || s.PID != pid || s.Crashes == 0 || !strings.Contains(s.LastError, "it ended after") {
		return fmt.Errorf("weft proxy says of weft tunnel: %+v, and it is %d", s, pid)
	}
	return nil
}

// supervisorKilled: connections live, and the next weft proxy goes on with the same process.
func supervisorKilled(t *testing.T, m *mesh) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
	live := mustOpen(t, alice, at(srv.Address, 7070))
	pid, err := m.tunnelPID()
	if err != nil {
		t.Fatal(err)
	}
	st, err := m.Proxy.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(st.Supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the next supervisor", func() error {
		now, err := m.Proxy.Status(t.Context())
		if err == nil && now.Supervisor == st.Supervisor {
			err = errors.New("the same")
		}
		return err
	})
	if err := live.echo("still here"); err != nil {
		t.Error(err)
	}
	if now, err := m.tunnelPID(); err != nil || now != pid {
		t.Errorf("pid %d, %v, and it was %d", now, err, pid)
	}
	if err := mustOpen(t, alice, at(srv.Address, 7070)).echo("new"); err != nil {
		t.Error(err)
	}
}

// upgraded: a weft proxy of another file takes over. Its tunnel takes new connections; the one before it keeps those that
// it has, and ends with the last.
func upgraded(t *testing.T, m *mesh) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
	live := mustOpen(t, alice, at(srv.Address, 7070))
	old, err := m.tunnelPID()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "weft")
	text, err := os.ReadFile(m.Binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "proxy", "--run", m.RunDir, "--node", m.Name, "--cgroup", filepath.Join(m.Name, "envoy"), "--envoy", m.Envoy,
		"--parent-shutdown-time", "20s")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { // the agent starts another one
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("the other weft proxy: %s", &log)
		}
		if err := m.Ready(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	under(t, load.Config{URL: "http://" + at(srv.Address, 8080), Dial: alice.Dial, Workers: 2, Rate: 100, NewConnections: true}, func() {
		until(t, "another tunnel", func() error {
			all, err := m.tunnels()
			if err == nil && all[len(all)-1] == old {
				err = errors.New("the same")
			}
			return err
		})
		time.Sleep(drained) // longer than both take new connections
	})
	if err := live.echo("still here"); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(old, 0); err != nil {
		t.Errorf("the one that carries a connection: %v", err)
	}
	_ = live.Close()
	until(t, "the end of the one that carries nothing", func() error {
		if syscall.Kill(old, 0) == nil {
			return errors.New("it runs")
		}
		return nil
	})
}
