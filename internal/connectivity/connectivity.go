// Package connectivity tries in a cluster every way that a connection may take, judges what comes of it, and removes what it
// made: by the kernel, by routes, authenticated, refused by a mode and by a policy, by a Gateway, and from a node.
//
//	connectivity.go     the run
//	manifests.go        what is made in the cluster
//	cases.go            what is tried
//	judge.go            what counts as right
package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

const (
	// startWithin bounds the start of all pods, settleWithin the wait for a case to come right after that: routes, policies
	// and certificates take their time.
	startWithin  = 3 * time.Minute
	settleWithin = 40 * time.Second
	goneWithin   = 2 * time.Minute
	pause        = time.Second
	// requests of a case. That one of two servers gets none of them by chance happens once in half a million runs.
	requests = 20
	// requestTimeout bounds one request.
	requestTimeout = 3 * time.Second
)

// Cluster is where the test runs; see survey.Cluster.
type Cluster interface {
	// Apply makes the object at a path, or changes it.
	Apply(ctx context.Context, path string, object []byte) error
	// Delete removes the object at a path, and what it owns. That there is none is no error.
	Delete(ctx context.Context, path string) error
	// Labels returns those of the object at a path. ok is false if there is none.
	Labels(ctx context.Context, path string) (labels map[string]string, ok bool, err error)
	PodsIn(ctx context.Context, namespace string) ([]survey.AnyPod, error)
	// AddressOf returns the first address of a Service or a Gateway, "" while it has none.
	AddressOf(ctx context.Context, path string) (string, error)
	// Exec runs a command in a pod and returns what it printed. err says that it could not run, or that it failed.
	Exec(ctx context.Context, namespace, pod, container string, command ...string) ([]byte, error)
}

// Test is a run.
type Test struct {
	Cluster Cluster
	Image   string    // of weft, with its tag
	Nodes   [2]string // where pods run; both may be the same
	// GatewayClass is "" if no Gateway is to be tried.
	GatewayClass string
	// Authenticated returns nil if a node has seen an authenticated connection between two pods (namespace/name).
	Authenticated func(ctx context.Context, from, to string) error
	// Done is called after each case.
	Done func(Result)
	// Note says what the run is at.
	Note func(format string, args ...any)
}

// Result is what came of a case. Err is nil if it is as wanted.
type Result struct {
	Case
	Took time.Duration
	Err  error
}

// Run makes the objects, tries all cases and returns how many failed. It removes what it made with Clean.
func (t *Test) Run(ctx context.Context) (failed int, err error) {
	if err := t.Clean(ctx); err != nil {
		return 0, err
	}
	inv := newInventory(t.Image, t.GatewayClass, t.Nodes)
	objects, err := inv.objects()
	if err != nil {
		return 0, err
	}
	t.Note("making %d objects in the namespaces %s and %s, on the nodes %s and %s", len(objects), Plain, Strict, t.Nodes[0], t.Nodes[1])
	for _, o := range objects {
		if err := t.Cluster.Apply(ctx, o.Path, o.JSON); err != nil {
			return 0, err
		}
	}
	to, err := t.started(ctx, inv)
	if err != nil {
		return 0, err
	}
	for _, c := range cases(to) {
		began := time.Now()
		err := t.try(ctx, c)
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		if err != nil {
			failed++
		}
		t.Done(Result{c, time.Since(began), err})
	}
	return failed, nil
}

// Clean removes what a run made, and waits until it is gone. A namespace of the test's name that is not the test's is an error.
func (t *Test) Clean(ctx context.Context) error {
	for _, ns := range []string{Plain, Strict} {
		labels, ok, err := t.Cluster.Labels(ctx, NamespacePath(ns))
		switch {
		case err != nil:
			return err
		case !ok:
			continue
		case labels[Label] == "":
			return fmt.Errorf("Namespace %s exists and has no label %s: it is not the test's; rename or remove it", ns, Label)
		}
		if err := t.Cluster.Delete(ctx, NamespacePath(ns)); err != nil {
			return err
		}
	}
	for _, ns := range []string{Plain, Strict} {
		err := t.until(ctx, goneWithin, func() error {
			_, ok, err := t.Cluster.Labels(ctx, NamespacePath(ns))
			if err == nil && ok {
				err = fmt.Errorf("Namespace %s is not gone yet; see kubectl describe namespace %s", ns, ns)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// started waits until all pods are ready, and the Gateway has an address.
func (t *Test) started(ctx context.Context, inv *inventory) (*target, error) {
	out := &target{pods: map[string]string{}}
	err := t.until(ctx, startWithin, func() error {
		for _, ns := range []string{Plain, Strict} {
			pods, err := t.Cluster.PodsIn(ctx, ns)
			if err != nil {
				return err
			}
			for _, p := range pods {
				if !p.Ready || p.Address == "" {
					return fmt.Errorf("Pod %s/%s is not ready: %s", ns, p.Name, p.Why)
				}
				out.pods[ns+"/"+p.Name] = inURL(p.Address)
			}
		}
		if len(out.pods) < len(inv.Pods) {
			return fmt.Errorf("only %d of %d pods are there", len(out.pods), len(inv.Pods))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	address, err := t.Cluster.AddressOf(ctx, fmt.Sprintf(collections["Service"], Plain)+"echo")
	if err != nil {
		return nil, err
	}
	out.pods["service/"+Plain+"/echo"] = inURL(address)
	if inv.Gateway == "" {
		return out, nil
	}
	err = t.until(ctx, settleWithin, func() error {
		address, err := t.Cluster.AddressOf(ctx, fmt.Sprintf(collections["Gateway"], Plain)+"gateway")
		if err == nil && address == "" {
			err = fmt.Errorf("Gateway %s/gateway has no address; see weft describe gateway %[1]s/gateway", Plain)
		}
		out.gateway = inURL(address)
		return err
	})
	return out, err
}

// inURL writes an address as a URL has it (RFC 3986, 3.2.2).
func inURL(address string) string {
	if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
		return "[" + address + "]"
	}
	return address
}

// try sends the requests of a case until they come out as wanted, or the time is over.
func (t *Test) try(ctx context.Context, c Case) error {
	return t.until(ctx, settleWithin, func() error {
		r, err := t.send(ctx, c)
		if err == nil {
			err = judge(c.Want, r)
		}
		if err == nil && c.Want.Authenticated {
			for _, server := range c.Want.Backends {
				err = errors.Join(err, t.Authenticated(ctx, c.From, Strict+"/"+server))
			}
		}
		return err
	})
}

// send runs the client in the pod of a case.
func (t *Test) send(ctx context.Context, c Case) (*load.Report, error) {
	ns, name := model.SplitKey(c.From)
	command := []string{"weft", "demo-client", "-o", "json", "--new-connections", "--timeout", requestTimeout.String(), "--requests", strconv.Itoa(requests), "--connections", "4", c.URL}
	out, err := t.Cluster.Exec(ctx, ns, name, "main", command...)
	var r load.Report
	if json.Unmarshal(out, &r) == nil {
		return &r, nil // it fails if a request does, which may be wanted
	}
	if err == nil {
		err = fmt.Errorf("the client printed %q", out)
	}
	return nil, fmt.Errorf("Pod %s: %w", c.From, err)
}

// until calls f until it returns nil, and returns its last error when the time is over.
func (t *Test) until(ctx context.Context, within time.Duration, f func() error) error {
	for end := time.Now().Add(within); ; {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
