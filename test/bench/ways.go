package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/sandbox"
)

// Names of the ways.
const (
	direct        = "direct"
	kernel        = "weft, kernel path"
	static        = "static Envoy hop"
	weftL7        = "weft, L7 route"
	sidecarsH1    = "sidecar pair, HTTP/1.1"
	sidecarsH2    = "sidecar pair, HTTP/2"
	sidecarsTLSH1 = "sidecar pair, mTLS, HTTP/1.1"
	sidecarsTLSH2 = "sidecar pair, mTLS, HTTP/2"
	weftL7MTLS    = "weft, L7 with mTLS"
	weftMTLS      = "weft, bytes over HBONE"
	weftTunnel    = "weft, bytes by weft tunnel"
)

// pairs are the sidecar pairs: what the first Envoy speaks to the second.
var pairs = []struct {
	way, pod   string
	tls, http2 bool
}{{sidecarsH1, "sh1", false, false}, {sidecarsH2, "sh2", false, true}, {sidecarsTLSH1, "st1", true, false}, {sidecarsTLSH2, "st2", true, true}}

// way is one way from a client to a server.
type way struct {
	name    string
	from    *lab.Pod
	target  netip.AddrPort
	server  int   // process
	proxies []int // processes between and beside
}

const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: plain}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: plain, labels: {app: server}}
---
apiVersion: v1
kind: Service
metadata: {name: kernel, namespace: plain}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: plain}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: plain}
spec:
  parentRefs: [{group: "", kind: Service, name: routed, port: 80}]
  rules: [{backendRefs: [{name: routed, port: 80}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: secure, labels: {weft.io/mtls: strict}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: secure}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: server, namespace: secure}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: secure}
spec: {serviceAccountName: client}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: secure, labels: {app: server}}
spec: {serviceAccountName: server}
---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: secure}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: secure}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed, namespace: secure}
spec:
  parentRefs: [{group: "", kind: Service, name: routed, port: 80}]
  rules: [{backendRefs: [{name: routed, port: 80}]}]
`

const serverPort = 8080

// newNode makes a node for one part of the benchmark.
func newNode(c config) (*sandbox.Node, error) {
	return sandbox.New(sandbox.Options{
		Name: "weftbnch", Subnet: netip.MustParsePrefix("10.76.0.0/16"), Binary: c.binary, Envoy: c.envoy,
		// One client makes all connections, and what is measured is what they cost.
		AgentArgs: []string{"--log-level", "warn", "--bytes", c.bytes, "--connection-rate=1000000"},
	})
}

// bytesWay is the way of authenticated bytes, which a node has one of.
func (c config) bytesWay() string {
	if c.bytes == "tunnel" {
		return weftTunnel
	}
	return weftMTLS
}

// builder sets the ways up.
type builder struct {
	ctx   context.Context
	c     config
	n     *sandbox.Node
	dir   string // certificates and Envoys' files; sidecars read them as another user
	procs []*exec.Cmd
}

// ways makes the node, the servers, and every way. close ends them.
func ways(ctx context.Context, c config) (out []way, closeAll func() error, err error) {
	b, end, err := newBuilder(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if out, err = b.build(); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return out, end, nil
}

// newBuilder makes the node, with its pods. close ends all that the builder started.
func newBuilder(ctx context.Context, c config) (b *builder, closeAll func() error, err error) {
	n, err := newNode(c)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, nil, err
	}
	b = &builder{ctx: ctx, c: c, n: n, dir: dir}
	end := func() error {
		err := n.Close()
		for _, p := range b.procs {
			_ = p.Wait()
		}
		_ = os.RemoveAll(dir)
		return err
	}
	defer func() {
		if err != nil {
			_ = end()
		}
	}()
	if err = os.Chmod(dir, 0o777); err != nil {
		return nil, nil, err
	}
	if err = n.Apply(ctx, fstest.MapFS{"bench/all.yaml": {Data: []byte(manifests)}}, "bench"); err != nil {
		return nil, nil, err
	}
	return b, end, nil
}

func (b *builder) build() ([]way, error) {
	plain, secure := b.n.Pod("plain", "client"), b.n.Pod("secure", "client")
	server, err := b.server(b.n.Pod("plain", "server"))
	if err != nil {
		return nil, err
	}
	secureServer, err := b.server(b.n.Pod("secure", "server"))
	if err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(b.n.Pod("plain", "server").Address, serverPort)
	hop, err := b.start(plain, hop{Name: "static", Listen: "127.0.0.1", ListenPort: 16001, Upstream: to.Addr().String(), UpstreamPort: to.Port()})
	if err != nil {
		return nil, err
	}
	var opponents []way
	for _, p := range pairs {
		w, err := b.sidecars(p.pod, p.tls, p.http2)
		if err != nil {
			return nil, err
		}
		w.name = p.way
		opponents = append(opponents, w)
	}
	if err := b.n.StartAgent(); err != nil {
		return nil, err
	}
	if err := b.n.Ready(b.ctx); err != nil {
		return nil, err
	}
	st, err := b.n.Proxy.Status(b.ctx)
	if err != nil {
		return nil, err
	}
	weft := []int{b.n.AgentPID(), st.PID}
	bytes := weft
	if b.c.bytesWay() == weftTunnel {
		pid, err := b.tunnel()
		if err != nil {
			return nil, err
		}
		bytes = []int{b.n.AgentPID(), pid}
	}
	service := func(ns, name string) netip.AddrPort { return netip.AddrPortFrom(b.n.ServiceIP(ns, name), 80) }
	out := []way{
		{direct, plain, to, server, nil},
		{kernel, plain, service("plain", "kernel"), server, weft[:1]},
		{static, plain, netip.MustParseAddrPort("127.0.0.1:16001"), server, []int{hop}},
		{weftL7, plain, service("plain", "routed"), server, weft},
	}
	out = append(out, opponents...)
	out = append(out, []way{
		{weftL7MTLS, secure, service("secure", "routed"), secureServer, weft},
		{b.c.bytesWay(), secure, service("secure", "bytes"), secureServer, bytes},
	}...)
	for _, w := range out {
		if err := fewTimeWaits(w.from); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// tunnel returns the pid of weft tunnel, of which weft proxy keeps a record.
func (b *builder) tunnel() (int, error) {
	file := filepath.Join(b.n.RunDir, "tunnel.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var record struct{ Envoys []struct{ PID int } }
	if err := json.Unmarshal(text, &record); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	if len(record.Envoys) != 1 {
		return 0, fmt.Errorf("%s: %d processes, want 1", file, len(record.Envoys))
	}
	return record.Envoys[0].PID, nil
}

func (b *builder) server(p *lab.Pod) (int, error) {
	cmd, err := startServer(b.ctx, p)
	if err != nil {
		return 0, err
	}
	b.procs = append(b.procs, cmd)
	return cmd.Process.Pid, nil
}

// startServer starts the benchmark's server in a pod, under the pod's name, and waits until it listens.
func startServer(ctx context.Context, p *lab.Pod) (*exec.Cmd, error) {
	cmd, _, err := self(p, "as-server", netip.AddrPortFrom(netip.IPv4Unspecified(), serverPort).String(), p.Name)
	if err != nil {
		return nil, err
	}
	for range 200 {
		c, err := p.Dial(ctx, "tcp", netip.AddrPortFrom(p.Address, serverPort).String())
		if err == nil {
			return cmd, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	return nil, errors.Join(fmt.Errorf("the server in pod %s does not answer", p.Name), cmd.Wait())
}

func (b *builder) start(p *lab.Pod, h hop) (int, error) {
	cmd, err := startHop(b.ctx, b.c.envoy, b.dir, p, h)
	if err != nil {
		return 0, err
	}
	b.procs = append(b.procs, cmd)
	return cmd.Process.Pid, nil
}

// fewTimeWaits bounds the connections of a pod that wait in TIME_WAIT: those that are closed with FIN would use up its
// ports within seconds.
func fewTimeWaits(p *lab.Pod) error {
	return p.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("1024"), 0)
	})
}

// sidecars makes two pods, each with an Envoy that takes its connections to and from port 8080 by iptables.
func (b *builder) sidecars(name string, tls, http2 bool) (way, error) {
	client, err := b.n.Lab.AddPod(name + "-c")
	if err != nil {
		return way{}, err
	}
	server, err := b.n.Lab.AddPod(name + "-s")
	if err != nil {
		return way{}, err
	}
	process, err := b.server(server)
	if err != nil {
		return way{}, err
	}
	alpn := "http/1.1"
	if http2 {
		alpn = "h2"
	}
	out := hop{Name: name + "-out", Listen: "127.0.0.1", ListenPort: 15001, OriginalDst: true, Upstream: server.Address.String(),
		UpstreamPort: serverPort, ClientTLS: tls, HTTP2: http2, ALPN: alpn, UID: sidecarUID}
	in := hop{Name: name + "-in", Listen: "0.0.0.0", ListenPort: 15006, OriginalDst: true, Upstream: "127.0.0.1", UpstreamPort: serverPort,
		ServerTLS: tls, ALPN: alpn, UID: sidecarUID}
	if tls {
		if out.CertFile, out.KeyFile, err = certificate(b.dir); err != nil {
			return way{}, err
		}
		in.CertFile, in.KeyFile = out.CertFile, out.KeyFile
	}
	var pids []int
	for _, s := range []struct {
		pod   *lab.Pod
		h     hop
		chain string
	}{{client, out, "OUTPUT"}, {server, in, "PREROUTING"}} {
		pid, err := b.start(s.pod, s.h)
		if err != nil {
			return way{}, err
		}
		pids = append(pids, pid)
		if err := redirect(s.pod, s.chain, serverPort, s.h.ListenPort); err != nil {
			return way{}, err
		}
	}
	return way{name, client, netip.AddrPortFrom(server.Address, serverPort), process, pids}, nil
}

// certificate makes one that is its own root, for both sidecars.
func certificate(dir string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return "", "", err
	}
	err = os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	if err == nil {
		err = os.Chown(keyFile, sidecarUID, sidecarUID)
	}
	return certFile, keyFile, err
}
