package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	proxyPoll       = 2 * time.Second
	proxyMaxBackoff = 30 * time.Second
	// proxyLog in the run directory is what the weft proxy that the agent starts says.
	proxyLog = "proxy.log"
)

// keepProxy sees to it that a weft proxy answers on its control socket: one that runs is left alone, so that the
// agent's restart does not touch Envoy, and none is started while another comes up.
func (a *Agent) keepProxy(ctx context.Context) error {
	backoff := proxyPoll
	for {
		wait := proxyPoll
		if _, err := a.proxy.Status(ctx); err != nil && ctx.Err() == nil {
			began := time.Now()
			if err := a.runProxy(ctx); err != nil {
				a.cfg.Log.Error("weft proxy ended", "error", err, "retryIn", backoff.String())
			}
			if time.Since(began) > proxyMaxBackoff {
				backoff = proxyPoll
			}
			wait, backoff = backoff, min(2*backoff, proxyMaxBackoff)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// runProxy starts weft proxy in a session of its own and returns when it ends, or when ctx does: it lives on then.
func (a *Agent) runProxy(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(a.cfg.RunDir, proxyLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("log of weft proxy: %w", err)
	}
	defer logFile.Close()
	args := []string{"proxy", "--run", a.cfg.RunDir, "--node", a.cfg.Node, "--cgroup-root", a.cfg.CgroupRoot, "--cgroup", a.cfg.ProxyCgroup}
	if !a.cfg.Tunnel {
		args = append(args, "--tunnel=false")
	}
	args = append(args, a.cfg.ProxyArgs...)
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start weft proxy: %w", err)
	}
	a.cfg.Log.Info("started weft proxy", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			err = fmt.Errorf("%w; see %s", err, logFile.Name())
		}
		return err
	case <-ctx.Done():
		return nil
	}
}
