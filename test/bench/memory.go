package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/sandbox"
)

const (
	memoryPods     = 100
	memoryServices = 5000
	perFile        = 200
	calledServices = 1000
)

// footprint is what processes hold resident, in bytes.
type footprint struct {
	Agent int64 `json:"agentBytes"`
	Envoy int64 `json:"envoyBytes"`
}

// memoryFigures are taken when the node is ready, and after pods called many of the Services.
type memoryFigures struct {
	Pods     int       `json:"pods"`
	Services int       `json:"services"`
	Ready    footprint `json:"ready"`
	ReadyIn  string    `json:"readyIn"`
	Called   int       `json:"called"`
	After    footprint `json:"afterCalls"`
}

// memory measures a node with 100 pods that have identities, and 5,000 L7 Services.
func memory(ctx context.Context, c config, r *report) (err error) {
	n, err := newNode(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	progress("memory: %d pods, %d Services", memoryPods, memoryServices)
	if err := n.Apply(ctx, crowd(memoryPods, memoryServices), "crowd"); err != nil {
		return err
	}
	began := time.Now()
	if err := n.StartAgent(); err != nil {
		return err
	}
	if err := n.Ready(ctx); err != nil {
		return err
	}
	m := &memoryFigures{Pods: memoryPods, Services: memoryServices, ReadyIn: time.Since(began).Round(time.Millisecond).String(), Called: calledServices}
	r.Memory = m
	if m.Ready, err = footprintOf(ctx, n); err != nil {
		return err
	}
	if err := callAll(ctx, n); err != nil {
		return err
	}
	m.After, err = footprintOf(ctx, n)
	return err
}

// footprintOf waits a moment for what is still going on.
func footprintOf(ctx context.Context, n *sandbox.Node) (f footprint, err error) {
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(3 * time.Second):
	}
	st, err := n.Proxy.Status(ctx)
	if err != nil {
		return f, err
	}
	if f.Agent, err = resident(n.AgentPID()); err != nil {
		return f, err
	}
	f.Envoy, err = resident(st.PID)
	return f, err
}

// callAll has pods call Services, each another one. Nobody serves them, so a 503 is an answer.
func callAll(ctx context.Context, n *sandbox.Node) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range calledServices {
		g.Go(func() error {
			service := serviceName(i * (memoryServices / calledServices))
			rep, err := load.Run(ctx, load.Config{
				URL:  "http://" + netip.AddrPortFrom(n.ServiceIP("crowd", service), 80).String(),
				Dial: n.Pod("crowd", podName(i%memoryPods)).Dial, Requests: 1,
			})
			if err != nil {
				return err
			}
			if rep.Statuses[503] != 1 {
				return fmt.Errorf("Service %s: %v %v; want status 503, for nobody serves it", service, rep.Statuses, rep.Failures())
			}
			return nil
		})
	}
	return g.Wait()
}

func podName(i int) string     { return fmt.Sprintf("pod-%d", i) }
func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// crowd writes manifests: pods with identities, and Services that select them in turn.
func crowd(pods, services int) fstest.MapFS {
	out := fstest.MapFS{"crowd/ns.yaml": {Data: []byte(`apiVersion: v1
kind: Namespace
metadata: {name: crowd, labels: {weft.io/mtls: permissive, weft.io/l7: enabled}}
`)}}
	var docs []string
	for i := range pods {
		docs = append(docs, fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: crowd}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: crowd, labels: {app: %[1]s}}
spec: {serviceAccountName: %[1]s}
`, podName(i)))
	}
	for i := range services {
		docs = append(docs, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: crowd}
spec: {selector: {app: %s}, ports: [{port: 80, targetPort: 8080}]}
`, serviceName(i), podName(i%pods)))
	}
	addFiles(out, "crowd/all", docs)
	return out
}

// addFiles spreads documents over files.
func addFiles(out fstest.MapFS, prefix string, docs []string) {
	for i := 0; i < len(docs); i += perFile {
		out[fmt.Sprintf("%s-%d.yaml", prefix, i/perFile)] = &fstest.MapFile{Data: []byte(strings.Join(docs[i:min(i+perFile, len(docs))], "---\n"))}
	}
}
