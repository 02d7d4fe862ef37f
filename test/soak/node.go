package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/sandbox"
)

const (
	bytesPort = 7070
	httpPort  = 8080
)

const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: soak, labels: {weft.io/mtls: strict}}
---
apiVersion: v1
kind: Pod
metadata: {name: c1, namespace: soak}
---
apiVersion: v1
kind: Pod
metadata: {name: c2, namespace: soak}
---
apiVersion: v1
kind: Pod
metadata: {name: s1, namespace: soak, labels: {app: server}}
---
apiVersion: v1
kind: Pod
metadata: {name: s2, namespace: soak, labels: {app: server}}
---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: soak}
spec: {selector: {app: server}, ports: [{port: 7070}]}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: soak, labels: {weft.io/l7: enabled}}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
`

// soak is a node under load.
type soak struct {
	c       config
	n       *sandbox.Node
	began   time.Time
	servers sync.WaitGroup
	closers []func() error

	mu       sync.Mutex
	counts   map[string]*count // by kind of load
	failures []string
	restarts map[string]int
}

// count is what one kind of load did.
type count struct {
	Done  int
	Bytes int64
	Bad   int
}

func start(ctx context.Context, c config) (_ *soak, err error) {
	// A certificate every 10 s for each identity.
	args := []string{"--log-level=warn", "--svid-ttl=20s", "--bytes=" + c.bytes}
	n, err := sandbox.New(sandbox.Options{
		Name: "weftsoak", Subnet: netip.MustParsePrefix("10.77.0.0/24"), Binary: c.binary, Envoy: c.envoy, AgentArgs: args,
	})
	if err != nil {
		return nil, err
	}
	s := &soak{c: c, n: n, began: time.Now(), counts: map[string]*count{}, restarts: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := n.Apply(ctx, fstest.MapFS{"soak/all.yaml": {Data: []byte(manifests)}}, "soak"); err != nil {
		return nil, err
	}
	for _, name := range []string{"s1", "s2"} {
		if err := s.serve(n.Pod("soak", name)); err != nil {
			return nil, err
		}
	}
	if err := n.StartAgent(); err != nil {
		return nil, err
	}
	return s, n.Ready(ctx)
}

// serve starts a pod's servers, in this process.
func (s *soak) serve(p *lab.Pod) error {
	for port, f := range map[int]func(net.Listener){bytesPort: s.serveBytes, httpPort: serveHTTP} {
		l, err := p.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		s.closers = append(s.closers, l.Close)
		s.servers.Go(func() { f(l) })
	}
	return nil
}

func (s *soak) close() error {
	for _, f := range s.closers {
		_ = f()
	}
	err := s.n.Close()
	s.servers.Wait()
	return err
}

func (s *soak) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%8s "+format+"\n", append([]any{time.Since(s.began).Round(time.Second)}, args...)...)
}
