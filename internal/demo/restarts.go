package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// crew is load of every kind at once.
type crew struct {
	names   []string
	running []*load.Running
	reports map[string]*load.Report
}

// Names of the loads.
const (
	routedLoad    = "route"
	newConnLoad   = "route, new connections"
	strictLoad    = "mTLS"
	strictNewLoad = "mTLS, new connections"
	kernelLoad    = "kernel"
	gatewayLoad   = "Gateway"
	intruderLoad  = "outside the mesh"
)

var loadNames = []string{routedLoad, newConnLoad, strictLoad, strictNewLoad, kernelLoad, gatewayLoad, intruderLoad}

// startCrew sends from every kind of client; requests to the vault carry a secret in their path.
func (d *demo) startCrew(ctx context.Context, secret string) (*crew, error) {
	vault := d.serviceURL("bank", "vault") + "/" + secret
	teller := d.node.Pod("bank", "teller").Dial
	configs := map[string]load.Config{
		routedLoad:    {URL: d.serviceURL("canary", "web"), Host: "web", Dial: d.node.Pod("canary", "client").Dial, Workers: 4, Rate: 400},
		newConnLoad:   {URL: d.serviceURL("canary", "web"), Host: "web", Dial: d.node.Pod("canary", "client").Dial, Workers: 4, Rate: 100, NewConnections: true},
		strictLoad:    {URL: vault, Host: "vault", Dial: teller, Workers: 4, Rate: 200},
		strictNewLoad: {URL: vault, Host: "vault", Dial: teller, Workers: 4, Rate: 100, NewConnections: true},
		kernelLoad:    {URL: d.serviceURL("l4", "db"), Host: "db", Dial: d.node.Pod("l4", "client").Dial, Workers: 4, Rate: 200, NewConnections: true},
		gatewayLoad:   {URL: "http://" + d.gatewayAddress().String(), Host: "shop.example", Dial: d.outside.Dial, Workers: 4, Rate: 100},
		intruderLoad:  {URL: d.serviceURL("bank", "vault"), Host: "vault", Dial: d.node.Pod("street", "passerby").Dial, Workers: 2, Rate: 50, NewConnections: true, Timeout: time.Second},
	}
	c := &crew{reports: map[string]*load.Report{}}
	for _, name := range loadNames {
		r, err := load.Start(ctx, configs[name])
		if err != nil {
			c.stop()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.names, c.running = append(c.names, name), append(c.running, r)
	}
	return c, nil
}

func (c *crew) stop() {
	for i, r := range c.running {
		c.reports[c.names[i]] = r.Stop()
	}
}

// legitimate is what clients sent who may: how many, how many failed, and why.
func (c *crew) legitimate() (requests, failed int, why string) {
	for _, n := range c.names {
		if r := c.reports[n]; n != intruderLoad {
			requests += r.Requests
			failed += r.Failed
			if r.Failed > 0 {
				why += fmt.Sprintf("\n%s: %d of %d in %s: %v", n, r.Failed, r.Requests, millis(r.Outage()), r.Failures())
			}
		}
	}
	return requests, failed, why
}

// restarts shows what clients feel of restarts and of a crash.
func (d *demo) restarts(ctx context.Context) {
	d.section("5  Restarts and a crash, under load of every kind")
	d.lossless(ctx, "Envoy hot-restarted", func() error {
		if err := d.node.Proxy.Restart(ctx); err != nil {
			return err
		}
		return d.drained(ctx)
	})
	d.lossless(ctx, "agent restarted", func() error { return d.restartAgent(ctx, syscall.SIGTERM) })
	d.lossless(ctx, "agent killed and started again", func() error { return d.restartAgent(ctx, syscall.SIGKILL) })
	d.kill(ctx)
}

// drained waits until the Envoys before this one ended, so that nothing depends on them.
func (d *demo) drained(ctx context.Context) error {
	for range 300 {
		st, err := d.node.Proxy.Status(ctx)
		if err == nil && len(st.Draining) == 0 {
			return nil
		}
		if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("the old Envoy did not end within 30 s")
}

func (d *demo) restartAgent(ctx context.Context, sig syscall.Signal) error {
	if err := d.node.StopAgent(sig); err != nil {
		return err
	}
	pause(ctx, 500*time.Millisecond) // a node without an agent
	if err := d.node.StartAgent(); err != nil {
		return err
	}
	return d.node.Ready(ctx)
}

// lossless checks that an event fails no request and lets nobody in.
func (d *demo) lossless(ctx context.Context, name string, event func() error) {
	c, err := d.startCrew(ctx, "lossless")
	if err != nil {
		d.fail(name, err)
		return
	}
	pause(ctx, time.Second)
	began := time.Now()
	err = event()
	took := time.Since(began)
	pause(ctx, time.Second)
	c.stop()
	if err != nil {
		d.fail(name, err)
		return
	}
	requests, failed, why := c.legitimate()
	in := c.reports[intruderLoad]
	answered := in.Requests - in.Failed
	d.line(failed == 0 && requests > 0 && answered == 0 && in.Requests > 0, name, "in %s: %d of %s requests failed; outside the mesh %d of %d answered%s",
		millis(took), failed, number(requests), answered, in.Requests, why)
}

// kill ends Envoy without warning. Routed traffic may fail until the next one serves. What the kernel and weft tunnel carry
// may not, and is never in the clear.
func (d *demo) kill(ctx context.Context) {
	const fails, kernel, clear = "Envoy killed: requests failed", "... kernel traffic meanwhile", "... strict traffic in the clear"
	vault, teller := d.node.Pod("bank", "vault"), d.node.Pod("bank", "teller")
	st, err := d.node.Proxy.Status(ctx)
	if err != nil || st.PID == 0 {
		d.fail(fails, fmt.Errorf("which process is Envoy? %w", errors.Join(err)))
		return
	}
	secret := "secret-" + rand.Text()
	wire, err := capture.Start(vault.HostLink)
	if err != nil {
		d.fail(fails, err)
		return
	}
	c, err := d.startCrew(ctx, secret)
	if err != nil {
		_, _ = wire.Stop()
		d.fail(fails, err)
		return
	}
	pause(ctx, time.Second)
	err = syscall.Kill(st.PID, syscall.SIGKILL)
	pause(ctx, 500*time.Millisecond)
	err = errors.Join(err, d.node.Ready(ctx))
	pause(ctx, 1500*time.Millisecond)
	c.stop()
	traffic, cerr := wire.Stop()
	if err = errors.Join(err, cerr); err != nil {
		d.fail(fails, err)
		return
	}
	back := true
	text := ""
	for _, n := range []string{routedLoad, newConnLoad, strictLoad, strictNewLoad, gatewayLoad} {
		r := c.reports[n]
		back = back && time.Since(r.LastFailure) > 500*time.Millisecond && r.Failed < r.Requests
		text += fmt.Sprintf("\n%-24s %3d of %s in %s", n, r.Failed, number(r.Requests), millis(r.Outage()))
	}
	d.line(back, fails, "then all served again%s", text)
	k := c.reports[kernelLoad]
	d.line(k.Failed == 0 && k.Requests > 0, kernel, "%d of %s requests failed%s", k.Failed, number(k.Requests), why(k))
	ports := traffic.Between(teller.Address, vault.Address)
	encrypted := ports[model.PortTunnel]
	delete(ports, model.PortTunnel)
	in := c.reports[intruderLoad]
	d.line(!traffic.Contains(secret) && encrypted > 0 && in.Failed == in.Requests && sum(ports) == 0, clear,
		"secret found on the wire: %t, in %s bytes of TLS; outside the mesh %d of %d answered",
		traffic.Contains(secret), number(encrypted), in.Requests-in.Failed, in.Requests)
}
