package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

const named = "198.51.100.3:443" // a Service whose port TLSRoutes have

// TestHellosByName: a pod's ClientHello leads to the route of its name however it comes. A connection without one, or with one that is
// too large, is closed. Others are served meanwhile.
func TestHellosByName(t *testing.T) {
	limits := defaultTimeouts
	limits.handshake = time.Second
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{testTimeouts: &limits})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	chain, key := w.ca.issue("", "of.backend")
	certificate, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := pods[1].Listen("tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go serveEach(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}), func(c net.Conn) { fmt.Fprintln(c, "hello") })
	dividedByName(t, w, pods[0], "*.names.example", endpointOf(b, 0, 8443))
	w.envoy()
	until(t, "the route's backend", func() error { return sayHello(pods[0], "a.names.example", 0) })
	w.noRejections()

	t.Run("in small pieces", func(t *testing.T) {
		if err := sayHello(pods[0], "b.names.example", 50); err != nil {
			t.Error(err)
		}
	})
	for name, sends := range map[string]string{
		"silence":               "",
		"a part of a hello":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"no TLS":                "GET / HTTP/1.1\r\nHost: a.names.example\r\n\r\n",
		"a hello of 20 KiB":     helloRecord(14<<10) + helloRecord(6<<10),
		"records without bytes": strings.Repeat("\x16\x03\x01\x00\x00", 4000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dialPod(t, pods[0], named)
			_, _ = io.WriteString(conn, sends)
			if err := sayHello(pods[0], "c.names.example", 0); err != nil {
				t.Errorf("another client meanwhile: %v", err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes, %v; want the end", n, err)
			}
		})
	}
	t.Run("names of no route", func(t *testing.T) {
		for _, name := range []string{"other.example", "names.example", ""} {
			if err := sayHello(pods[0], name, 0); err == nil {
				t.Errorf("%q is served", name)
			}
		}
	})
}

// helloRecord is a TLS record of a ClientHello of 20 KiB, or what goes on with one.
func helloRecord(bytes int) string {
	body := "\x01\x00\x50\x00\x03\x03" + strings.Repeat("x", bytes-6)
	return fmt.Sprintf("\x16\x03\x01%c%c%s", bytes>>8, bytes&0xff, body)
}

// dividedByName makes a Service whose connections Envoy divides by their server name. A packet filter of the client's namespace does
// here what the kernel's programs do otherwise.
func dividedByName(t *testing.T, w *world, client *lab.Pod, host string, e model.Endpoint) {
	t.Helper()
	addr, _, _ := strings.Cut(named, ":")
	put(w, w.st.Services, &model.Service{
		Namespace: "shop", Name: "names", Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Ports: []model.ServicePort{{Port: 443, Protocol: model.TCP, SNI: true}},
	})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/names", Port: 443, Protocol: model.TCP, Backends: []model.Endpoint{e}})
	ref := streamRef("TLSRoute", "names")
	put(w, w.st.Divisions, &model.Division{Service: "shop/names", Port: 443, Names: []model.GatewayStream{{Hostname: host, Route: ref}}})
	put(w, w.st.StreamRoutes, &model.StreamRoute{Route: ref, Mesh: true, Backends: []model.Backend{{Namespace: "shop", Name: "names", Port: 443, Weight: 1}}})
	podRun(t, client, "ip", "route", "add", addr, "dev", "lo", "src", client.Address.String())
	podRun(t, client, "iptables", "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", addr, "-j", "REDIRECT", "--to-ports", fmt.Sprint(PortSNI))
}

// sayHello makes a TLS connection from a pod and reads the backend's greeting. The ClientHello is written in pieces of so many bytes
// if that is not 0.
func sayHello(p *lab.Pod, name string, piece int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	raw, err := p.Dial(ctx, "tcp", named)
	if err != nil {
		return err
	}
	defer raw.Close()
	c := tls.Client(&pieces{Conn: raw, size: piece}, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != "of.backend" {
		return fmt.Errorf("the certificate is %s's", got)
	}
	if got, err := greeting(c); got != "hello" {
		return fmt.Errorf("greeting %q, %w", got, err)
	}
	return nil
}

// pieces writes in pieces of a size.
type pieces struct {
	net.Conn
	size int
}

func (p *pieces) Write(b []byte) (n int, err error) {
	for p.size > 0 && len(b)-n > p.size && err == nil {
		var m int
		m, err = p.Conn.Write(b[n : n+p.size])
		n += m
		time.Sleep(time.Millisecond / 2)
	}
	if err != nil {
		return n, err
	}
	m, err := p.Conn.Write(b[n:])
	return n + m, err
}
