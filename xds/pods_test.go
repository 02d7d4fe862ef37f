package xds

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

func identity(ns, sa string) model.Identity { return model.NewIdentity(testDomain, ns, sa) }

// workload makes a pod of the lab known to the mesh.
func workload(p *lab.Pod, ns string, mode model.MTLSMode, policy *model.Policy) *model.Workload {
	w := &model.Workload{
		Namespace: ns, Name: p.Name, ServiceAccount: p.Name, Addresses: []netip.Addr{p.Address, p.Address6},
		MTLS: mode, Local: true, NetNS: p.NetNS, Cgroup: p.Cgroup, Policy: policy,
	}
	if mode != model.MTLSDisabled {
		w.Identity = identity(ns, p.Name)
	}
	return w
}

// keepsAddresses makes answers to the clients' own addresses come back to Envoy, as the datapath does for real pods.
func keepsAddresses(t *testing.T, p *lab.Pod) {
	t.Helper()
	for _, args := range []string{
		"rule add fwmark 1337 lookup 100", "route add local 0.0.0.0/0 dev lo table 100",
		"-6 rule add fwmark 1337 lookup 100", "-6 route add local ::/0 dev lo table 100",
	} {
		podRun(t, p, "ip", strings.Fields(args)...)
	}
	podRun(t, p, "sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=1", "net.ipv4.fwmark_reflect=1", "net.ipv6.fwmark_reflect=1")
}

// listenIn listens in a pod until the test ends.
func listenIn(t *testing.T, p *lab.Pod, at netip.AddrPort) net.Listener {
	t.Helper()
	l, err := p.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// strictPair makes the first two of pods strict workloads with a certificate.
func strictPair(w *world, pods []*lab.Pod) (a, b *model.Workload) {
	a, b = workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[1], "shop", model.MTLSStrict, nil)
	put(w, w.st.Workloads, a, b)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
	return a, b
}

// echo answers HTTP requests in a pod with what it saw.
func echo(t *testing.T, p *lab.Pod, port int, name string) {
	t.Helper()
	for _, a := range []netip.Addr{p.Address, p.Address6} {
		l := listenIn(t, p, netip.AddrPortFrom(a, uint16(port)))
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s %s from %s\n", name, r.Method, r.URL, r.RemoteAddr)
			_ = r.Header.Write(w)
		}), ReadHeaderTimeout: time.Minute, Protocols: bothProtocols()}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
}

func bothProtocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// ask sends a request from a pod to an address.
func ask(p *lab.Pod, at, host, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", at)
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	return roundTrip(c, host, path)
}

func roundTrip(c net.Conn, host, path string) (int, string, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host); err != nil {
		return 0, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

func podRun(t *testing.T, p *lab.Pod, name string, args ...string) {
	t.Helper()
	out, err := podCommand(p, name, args...)
	if err != nil {
		t.Fatalf("%s %v in pod %s: %v: %s", name, args, p.Name, err, out)
	}
}

func labPods(t *testing.T, names ...string) []*lab.Pod {
	t.Helper()
	l := testenv.Lab(t)
	pods := make([]*lab.Pod, len(names))
	for i, n := range names {
		pods[i] = testenv.Pod(t, l, n)
		keepsAddresses(t, pods[i])
	}
	return pods
}

func podCommand(p *lab.Pod, name string, args ...string) (string, error) {
	var out lockedBuffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// loopbackService is a service whose address is where Envoy listens in the caller's pod: without the kernel's hooks
// the original destination is that address, so that it finds its scope.
func loopbackService(w *world, name string, endpoints ...model.Endpoint) {
	svc := &model.Service{
		Namespace: "shop", Name: name,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		Ports:     []model.ServicePort{{Name: "http", Port: PortHTTP, Protocol: model.TCP, L7: true}},
	}
	put(w, w.st.Services, svc)
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: PortHTTP, Protocol: model.TCP, Backends: endpoints})
}

func endpointOf(wl *model.Workload, i int, port uint16) model.Endpoint {
	return model.Endpoint{Address: netip.AddrPortFrom(wl.Addresses[i], port), Workload: wl.Key(), MTLS: wl.MTLS, Identity: wl.Identity}
}
