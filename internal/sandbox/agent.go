package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

const readyTimeout = 60 * time.Second

// agentProcess is a running agent.
type agentProcess struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after Wait
	err   error
}

// StartAgent starts the agent, which starts Envoy where none runs. It returns at once; see Ready.
func (n *Node) StartAgent() error {
	if err := cleanKilled(n.Name); err != nil {
		return err
	}
	out, err := os.OpenFile(n.AgentLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cgroup, err := n.makeCgroup("agent")
	if err != nil {
		return err
	}
	defer cgroup.Close()
	args := append([]string{
		"agent", "--manifests", n.Manifests(), "--run", n.RunDir, "--state", n.stateDir(), "--node", n.Name,
		"--node-address", n.Lab.Gateway.String() + "," + n.Lab.Gateway6.String(),
		"--pins", n.pinDir(), "--proxy-cgroup", n.proxyCgroup(), "--proxy",
	}, n.AgentArgs...)
	if n.Envoy != "" {
		args = append(args, "--proxy-args=--envoy="+n.Envoy)
	}
	cmd := exec.Command(n.Binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	// In a process group of its own, so that Ctrl-C at a terminal ends the caller first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	p := &agentProcess{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	n.mu.Lock()
	n.agent = p
	n.mu.Unlock()
	return nil
}

// makeCgroup makes a cgroup below the lab's, which Close removes with all processes in it.
func (n *Node) makeCgroup(name string) (*os.File, error) {
	root, err := lab.CgroupMount()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, n.Name, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup of %s: %w", name, err)
	}
	return os.Open(path)
}

func (n *Node) current() *agentProcess {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

// AgentPID is the agent's process, or 0.
func (n *Node) AgentPID() int {
	if p := n.current(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// AgentEnded is closed when the agent ended. It panics before StartAgent.
func (n *Node) AgentEnded() <-chan struct{} { return n.current().ended }

// StopAgent sends the agent a signal and waits for its end. Envoy and the hooks in the kernel stay.
func (n *Node) StopAgent(sig syscall.Signal) error {
	p := n.current()
	if p == nil {
		return errors.New("the agent does not run")
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(readyTimeout):
		return fmt.Errorf("the agent did not end within %s after signal %s", readyTimeout, sig)
	}
}

// Ready waits until the agent finds the node healthy: everything read, hooks attached, Envoy live and connected. The
// error says what is not.
func (n *Node) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	p := n.current()
	for {
		st, err := n.API.Status(ctx)
		if err == nil && st.Agent.PID == p.cmd.Process.Pid {
			if st.Healthy {
				err = n.listening(ctx, st.Workloads)
			} else {
				err = errors.New(strings.Join(st.Faults, "; "))
			}
			if err == nil {
				return nil
			}
		}
		select {
		case <-p.ended:
			return fmt.Errorf("the agent ended: %w\n%s", errors.Join(p.err), tail(n.AgentLog(), 8))
		case <-ctx.Done():
			return fmt.Errorf("the node is not ready after %s: %w\n%s", readyTimeout, errors.Join(err), tail(n.AgentLog(), 8))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listening reports whether Envoy's listeners are in all pods of the mesh.
func (n *Node) listening(ctx context.Context, in []api.Workload) error {
	for _, w := range in {
		p := n.pods[w.Namespace+"/"+w.Name]
		if p == nil {
			continue
		}
		c, err := p.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(model.PortHTTP)))
		if err != nil {
			return fmt.Errorf("Envoy's listener in Pod %s/%s: %w", w.Namespace, w.Name, err)
		}
		_ = c.Close()
	}
	return nil
}

// Logs returns the ends of the logs of the agent and of weft proxy.
func (n *Node) Logs() string {
	return tail(n.AgentLog(), 40) + "\n" + tail(filepath.Join(n.RunDir, "proxy.log"), 40)
}

// tail gives the last lines of a log.
func tail(file string, most int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return file + ":\n" + strings.Join(lines[max(0, len(lines)-most):], "\n")
}
