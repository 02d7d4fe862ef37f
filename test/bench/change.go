package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/sandbox"
)

// changeFigures are those of a route that is changed while a client asks.
type changeFigures struct {
	Routes int `json:"routes"`
	// From the write of the file to the end of the first answer by the new route.
	Median time.Duration   `json:"medianns"`
	P90    time.Duration   `json:"p90ns"`
	All    []time.Duration `json:"allns"`
	// AgentCPU is the agent's time on a CPU for one change, without traffic.
	AgentCPU time.Duration `json:"agentCPUns"`
	ReadyIn  string        `json:"readyIn"` // from the agent's start
}

const changeWait = 10 * time.Second

// change measures one route's change among few and among many.
func change(ctx context.Context, c config, r *report) error {
	for _, s := range strings.Split(c.routes, ",") {
		routes, err := strconv.Atoi(s)
		if err != nil || routes < 1 {
			return fmt.Errorf("--routes: %q is not a number of routes", s)
		}
		f, err := changeAt(ctx, c, routes)
		if err != nil {
			return fmt.Errorf("%d routes: %w", routes, err)
		}
		r.Change = append(r.Change, f)
	}
	return nil
}

func changeAt(ctx context.Context, c config, routes int) (f changeFigures, err error) {
	n, err := newNode(c)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	progress("change: %d routes", routes)
	if err := n.Apply(ctx, routed(routes), "routed"); err != nil {
		return f, err
	}
	for _, name := range servers {
		server, err := startServer(ctx, n.Pod("routed", name))
		if err != nil {
			return f, err
		}
		defer func() {
			_ = server.Process.Kill()
			_ = server.Wait()
		}()
	}
	began := time.Now()
	if err := n.StartAgent(); err != nil {
		return f, err
	}
	if err := n.Ready(ctx); err != nil {
		return f, err
	}
	f.Routes, f.ReadyIn = routes, time.Since(began).Round(time.Millisecond).String()
	client := newPoller(n)
	defer client.close()
	if _, err := client.until(ctx, n.Pod("routed", servers[0]).Name, time.Now()); err != nil {
		return f, err
	}
	for i := 1; i <= c.changes; i++ {
		at := time.Now()
		if err := n.Write("routed/changed.yaml", changed(i)); err != nil {
			return f, err
		}
		took, err := client.until(ctx, n.Pod("routed", servers[i%2]).Name, at)
		if err != nil {
			return f, err
		}
		f.All = append(f.All, took)
		time.Sleep(20 * time.Millisecond)
	}
	f.Median = median(f.All)
	f.P90 = slices.Sorted(slices.Values(f.All))[len(f.All)*9/10]
	f.AgentCPU, err = changeCPU(n, c.changes)
	return f, err
}

// changeCPU writes the file without traffic and gives the agent's time for one change, less what it spends idle.
func changeCPU(n *sandbox.Node, changes int) (time.Duration, error) {
	const every = 50 * time.Millisecond
	spent := func(write bool) (time.Duration, error) {
		before, err := cpuTime(n.AgentPID())
		if err != nil {
			return 0, err
		}
		for i := range changes {
			if write {
				if err := n.Write("routed/changed.yaml", changed(i+changes+1)); err != nil {
					return 0, err
				}
			}
			time.Sleep(every)
		}
		after, err := cpuTime(n.AgentPID())
		return after - before, err
	}
	time.Sleep(2 * time.Second)
	idle, err := spent(false)
	if err != nil {
		return 0, err
	}
	busy, err := spent(true)
	return (busy - idle) / time.Duration(changes), err
}

// poller asks without pause over one connection.
type poller struct {
	http   *http.Client
	target string
}

func newPoller(n *sandbox.Node) *poller {
	pod := n.Pod("routed", "client")
	return &poller{
		target: "http://" + netip.AddrPortFrom(n.ServiceIP("routed", serviceName(0)), 80).String() + "/",
		http: &http.Client{Timeout: changeWait, Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return pod.Dial(ctx, network, addr)
		}}},
	}
}

func (p *poller) close() { p.http.CloseIdleConnections() }

// until asks until a server answers, and gives the time since then.
func (p *poller) until(ctx context.Context, server string, since time.Time) (time.Duration, error) {
	last := ""
	for time.Since(since) < changeWait {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.target, nil)
		if err != nil {
			return 0, err
		}
		resp, err := p.http.Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		if last = resp.Header.Get(load.BackendHeader); resp.StatusCode == http.StatusOK && last == server {
			return time.Since(since), nil
		}
		time.Sleep(200 * time.Microsecond) // leaves the machine to those who work on the change
	}
	return 0, fmt.Errorf("%q answers after %s, want %q", last, changeWait, server)
}

// routed writes a Service and an HTTPRoute for each number; the first route is in a file of its own.
func routed(routes int) fstest.MapFS {
	out := fstest.MapFS{
		"routed/ns.yaml":      {Data: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: routed}\n")},
		"routed/pods.yaml":    {Data: []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: routed}\n")},
		"routed/changed.yaml": {Data: changed(0)},
	}
	var docs []string
	for _, name := range servers {
		docs = append(docs, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s, namespace: routed, labels: {app: %[1]s}}\n", name), serviceOf(name, name))
	}
	for i := range routes {
		docs = append(docs, serviceOf(serviceName(i), servers[0]))
		if i > 0 {
			docs = append(docs, string(routeFor(serviceName(i), 1, 0)))
		}
	}
	addFiles(out, "routed/all", docs)
	return out
}

// servers are two versions of a workload; a change leads from one to the other.
var servers = [2]string{"old", "new"}

func serviceOf(name, app string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: routed}
spec: {selector: {app: %s}, ports: [{port: 80, targetPort: 8080}]}
`, name, app)
}

// changed is the first route after its i-th change: all traffic to one of the servers.
func changed(i int) []byte { return routeFor(serviceName(0), 1-i%2, i%2) }

func routeFor(service string, weights ...int) []byte {
	return fmt.Appendf(nil, `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s, namespace: routed}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules: [{backendRefs: [{name: %[2]s, port: 80, weight: %[3]d}, {name: %[4]s, port: 80, weight: %[5]d}]}]
`, service, servers[0], weights[0], servers[1], weights[1])
}
