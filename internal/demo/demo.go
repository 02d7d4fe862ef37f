// Package demo is `weft demo`: a node with pods on this machine, the examples applied to it, and measured figures for
// what they show, each a line that passes or fails.
//
//	demo.go       the run: check the machine, start, measure, stay up, take away
//	canary.go     1 a split on a Service, changed under load
//	mtls.go       2 identities, what is on the wire, who is refused
//	l4.go         3 a Service that stays in the kernel
//	gateway.go    4 a Gateway from outside
//	restarts.go   5 Envoy and the agent restarted and killed under load
//	servicemap.go the service map's page
//	report.go     lines for people
//	workload/     what runs in the pods
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/examples"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/sandbox"
)

const (
	nodeName = "weftdemo"
	subnet   = "10.77.0.0/16"
)

// ErrFailed is what Run returns when a line failed.
var ErrFailed = errors.New("a line of the demo failed")

// Options of Run.
type Options struct {
	Out    io.Writer
	Binary string // weft, for the agent and the pods; "" is this executable
	// Exit ends the demo after the figures; else it stays up until its context ends.
	Exit bool
}

// demo is a running one.
type demo struct {
	*report
	node    *sandbox.Node
	outside *lab.Pod // not in the mesh, not in Kubernetes: another machine
	ca      []byte   // PEM: who signed the Gateway's certificate
}

// Run shows the mesh on this machine. It takes everything away again before it returns. The error is ErrFailed if a
// line failed, or says what kept the demo from starting.
func Run(ctx context.Context, o Options) (err error) {
	if err := checkMachine(); err != nil {
		return err
	}
	d := &demo{report: newReport(o.Out)}
	began := time.Now()
	d.node, err = sandbox.New(sandbox.Options{
		Name: nodeName, Subnet: netip.MustParsePrefix(subnet), Binary: o.Binary,
		// The old Envoy goes soon after a hot restart, so that what depends on it would show while the load runs.
		AgentArgs: []string{"--proxy-args=--drain-time=2s", "--proxy-args=--parent-shutdown-time=4s"},
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := d.node.Close(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("take the demo away: %w", cerr))
		}
	}()
	if err := d.start(ctx); err != nil {
		return err
	}
	d.text("A node with %d pods serves after %s.", len(d.node.Lab.Pods())-1, millis(time.Since(began)))
	for _, part := range []func(context.Context){d.canary, d.mtls, d.l4, d.gateway, d.restarts} {
		if part(ctx); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	d.text("\n%s", d.summary(time.Since(began)))
	if d.failed > 0 {
		d.keepLogs()
	}
	if !o.Exit {
		page, err := d.serveMap(ctx)
		if err != nil {
			return err
		}
		defer page.end()
		d.whatNext(page.url)
		select {
		case <-ctx.Done():
			d.text("Taking everything away.")
		case <-d.node.AgentEnded():
			d.text("The agent ended; taking everything away.")
		}
	}
	if d.failed > 0 {
		return ErrFailed
	}
	return nil
}

func (d *demo) start(ctx context.Context) error {
	for _, example := range []string{"canary", "mtls", "l4", "gateway"} {
		if err := d.node.Apply(ctx, examples.FS, example); err != nil {
			return err
		}
	}
	secret, ca, err := gatewayCertificate("gateway", "shop-certificate", "shop.example")
	if err != nil {
		return err
	}
	d.ca = ca
	if err := d.node.Write("gateway/certificate.yaml", secret); err != nil {
		return err
	}
	if d.outside, err = d.node.Lab.AddPod("outside"); err != nil {
		return err
	}
	if err := d.node.StartAgent(); err != nil {
		return err
	}
	return d.node.Ready(ctx)
}

func (d *demo) summary(took time.Duration) string {
	if d.failed == 0 {
		return fmt.Sprintf("All %d lines pass, in %s.", d.passed, millis(took))
	}
	return fmt.Sprintf("%d of %d lines fail.", d.failed, d.passed+d.failed)
}

// keepLogs copies the logs to where the end of the demo leaves them.
func (d *demo) keepLogs() {
	dir, err := os.MkdirTemp("", "weft-demo-logs-")
	if err != nil {
		d.text("The logs cannot be kept: %v", err)
		return
	}
	for _, f := range []string{d.node.AgentLog(), filepath.Join(d.node.RunDir, "proxy.log")} {
		if text, err := os.ReadFile(f); err == nil {
			_ = os.WriteFile(filepath.Join(dir, filepath.Base(f)), text, 0o600)
		}
	}
	d.text("The logs of the agent and of Envoy are kept in %s.", dir)
}

// checkMachine says what is missing here and how to get it.
func checkMachine() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root: run it by sudo; it makes network namespaces and loads eBPF programs")
	} else {
		for _, p := range datapath.Check(datapath.Config{}) {
			if p.Missing() {
				missing = append(missing, p.String())
			}
		}
	}
	if _, err := proxy.Find(); err != nil {
		missing = append(missing, "Envoy: "+err.Error())
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this machine does not have what the demo needs:\n  - %s", strings.Join(missing, "\n  - "))
}

func (d *demo) whatNext(page string) {
	n, bin := d.node, displayPath(d.node.Binary)
	client := n.Pod("canary", "client").NetNSName
	d.section("It stays up. Try, in another terminal:")
	for _, l := range [][2]string{
		{"another split", "edit " + filepath.Join(n.Manifests(), "canary/route.yaml")},
		{"... and see it", fmt.Sprintf("ip netns exec %s %s demo-client --requests 1000 http://web", client, bin)},
		{"one request", fmt.Sprintf("ip netns exec %s curl -i http://web", client)},
		{"as the teller", fmt.Sprintf("ip netns exec %s curl -i http://vault", n.Pod("bank", "teller").NetNSName)},
		{"with no identity", fmt.Sprintf("ip netns exec %s curl -i http://vault.bank", n.Pod("street", "passerby").NetNSName)},
		{"the Gateway", fmt.Sprintf("curl -i --resolve shop.example:80:%s http://shop.example/", d.gatewayAddress())},
		{"the node", fmt.Sprintf("%s status --run %s", bin, n.RunDir)},
		{"its routes", fmt.Sprintf("%s config routes --run %s", bin, n.RunDir)},
		{"who calls whom", "open " + page},
		{"its connections", fmt.Sprintf("%s observe --run %s", bin, n.RunDir)},
		{"a new Envoy", fmt.Sprintf("%s proxy restart --run %s", bin, n.RunDir)},
	} {
		d.text("  %-18s %s", l[0], l[1])
	}
	d.text("\nCtrl-C takes everything away.")
}

// displayPath is relative to the working directory where that is shorter.
func displayPath(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
