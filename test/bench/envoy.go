package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"text/template"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/proxy"
)

// findEnvoy looks where weft proxy would.
func findEnvoy(c config) (string, error) {
	if c.envoy != "" {
		return filepath.Abs(c.envoy)
	}
	beside := filepath.Join(filepath.Dir(c.binary), "envoy")
	found, err := proxy.Find()
	if _, serr := os.Stat(beside); err != nil && serr == nil {
		return beside, nil
	}
	return found, err
}

//go:embed envoy.yaml.tmpl
var envoyTemplate string

// hop is a hand-written Envoy: a listener and a cluster, nothing else.
type hop struct {
	Name         string
	Listen       string // address
	ListenPort   uint16
	OriginalDst  bool // it is reached by a REDIRECT, so the address it was called by is another
	Upstream     string
	UpstreamPort uint16
	ServerTLS    bool // of its listener: mutual
	ClientTLS    bool // to its upstream: mutual
	HTTP2        bool // to its upstream; else HTTP/1.1
	ALPN         string
	CertFile     string
	KeyFile      string
	Admin        string
	UID          uint32 // runs as; 0 is root
}

const sidecarUID = 1337

// startHop runs an Envoy in a pod and waits until it listens.
func startHop(ctx context.Context, envoy, dir string, p *lab.Pod, h hop) (*exec.Cmd, error) {
	h.Admin = filepath.Join(dir, h.Name+".admin")
	var text bytes.Buffer
	if err := template.Must(template.New("envoy").Parse(envoyTemplate)).Execute(&text, h); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, h.Name+".yaml")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		return nil, err
	}
	logFile, err := os.Create(filepath.Join(dir, h.Name+".log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	// As many workers as weft's Envoy has.
	cmd := exec.Command(envoy, "-c", file, "--concurrency", fmt.Sprint(runtime.NumCPU()), "--disable-hot-restart", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// A session of its own, as weft's Envoy has: where the kernel groups by session (autogroup), they share CPUs alike.
	cmd.SysProcAttr = ownSession()
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: h.UID, Gid: h.UID}
	if err := p.Start(cmd); err != nil {
		return nil, fmt.Errorf("Envoy %s: %w", h.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := p.Dial(ctx, "tcp", net.JoinHostPort(h.Listen, fmt.Sprint(h.ListenPort)))
		if err == nil {
			return cmd, c.Close()
		}
		select {
		case <-ctx.Done():
			logs, _ := os.ReadFile(logFile.Name())
			return nil, errors.Join(fmt.Errorf("Envoy %s does not listen: %w\n%s", h.Name, err, logs), cmd.Process.Kill())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// redirect sends a pod's connections to a port to another port of the pod, the way sidecars do, except for those that
// the sidecar makes itself.
func redirect(p *lab.Pod, chain string, port, to uint16) error {
	rules := [][]string{
		{"-t", "nat", "-A", chain, "-p", "tcp", "--dport", fmt.Sprint(port), "-j", "REDIRECT", "--to-ports", fmt.Sprint(to)},
	}
	if chain == "OUTPUT" {
		rules = append([][]string{{"-t", "nat", "-A", chain, "-m", "owner", "--uid-owner", fmt.Sprint(sidecarUID), "-j", "RETURN"}}, rules...)
	}
	for _, r := range rules {
		cmd := exec.Command("iptables", append([]string{"-w"}, r...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := p.Start(cmd); err != nil {
			return fmt.Errorf("iptables (apt install iptables): %w", err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("iptables %v: %w: %s", r, err, out.Bytes())
		}
	}
	return nil
}
