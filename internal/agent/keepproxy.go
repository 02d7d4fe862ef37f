package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	proxyPoll       = 2 * time.Second
	proxyMaxBackoff = 30 * time.Second
	// proxyLog in the run directory is what the weft proxy that the agent starts says. That keeps it small (proxy.LogTo).
	proxyLog = "proxy.log"
)

// keepProxy starts a weft proxy when none listens on the control socket. One that runs is left alone, so that the agent's
// restart does not touch Envoy. While one reports (followProxy), its row is waited for and nothing is asked. One that
// listens and reports nothing is looked at again: a second beside it would take its Envoy.
func (a *Agent) keepProxy(ctx context.Context) error {
	feed := a.st.Feed(a.st.Proxies)
	defer feed.Close()
	backoff := proxyPoll
	for {
		feed.Take()
		ready, again := feed.Ready(), time.NewTimer(proxyPoll)
		switch {
		case a.proxyReports():
			again.Stop()
		case !a.proxy.Listening(ctx) && ctx.Err() == nil:
			began := time.Now()
			if err := a.runProxy(ctx); err != nil {
				a.cfg.Log.Error("weft proxy ended", "error", err, "retryIn", backoff.String())
			}
			if time.Since(began) > proxyMaxBackoff {
				backoff = proxyPoll
			}
			ready = nil
			again.Reset(backoff)
			backoff = min(2*backoff, proxyMaxBackoff)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
		case <-again.C:
		}
		again.Stop()
	}
}

// proxyReports reports whether a weft proxy reports to this agent.
func (a *Agent) proxyReports() bool {
	p, ok := a.st.Proxies.Get(a.st.Snapshot(), (*model.Proxy)(nil).Key())
	return ok && p.State != ""
}

// runProxy starts weft proxy in a session of its own and returns when it ends, or when ctx does: it lives on then.
func (a *Agent) runProxy(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// What kept weft proxy from starting stays in it when the next one starts.
	logFile, err := os.OpenFile(filepath.Join(a.cfg.RunDir, proxyLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of weft proxy: %w", err)
	}
	defer logFile.Close()
	args := []string{"proxy", "--run", a.cfg.RunDir, "--node", a.cfg.Node, "--cgroup-root", a.cfg.CgroupRoot, "--cgroup", a.cfg.ProxyCgroup, "--log-file", logFile.Name()}
	if !a.cfg.Tunnel {
		args = append(args, "--tunnel=false")
	}
	if n := a.cfg.MaxConnections; n != 0 {
		args = append(args, "--max-connections", strconv.FormatUint(n, 10))
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
