package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// both gives a pod's addresses, IPv4 first.
func both(p *lab.Pod) [2]netip.Addr { return [2]netip.Addr{p.Address, p.Address6} }

func mtls(t *testing.T, m *mesh) {
	alice, outsider := m.Pod("strict", "alice"), m.Pod("plain", "c")
	srv := m.Pod("strict", "srv")
	t.Run("strict", func(t *testing.T) {
		for i, ip := range serviceIPs("strict", "srv") {
			for _, addr := range []string{at(ip, 70), at(both(srv)[i], 7070)} {
				s := mustOpen(t, alice, addr)
				if err := s.echo("hello"); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
				if s.server != "strict/srv" || netip.MustParseAddrPort(s.client).Addr() != both(alice)[i] {
					t.Errorf("%s: %s answers and sees %s", addr, s.server, s.client)
				}
				if peer := s.RemoteAddr().String(); peer != addr {
					t.Errorf("getpeername says %s, want %s", peer, addr)
				}
				for _, from := range []*lab.Pod{outsider, m.outside} {
					if err := refused(from, addr); err != nil && (from == outsider || !strings.HasPrefix(addr, ip.String())) {
						t.Error(err)
					}
				}
			}
			if err := want(alice, at(serviceIPs("strict", "l7")[i], 80), request{path: "/"}, 200, "strict/srv"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("on the wire", func(t *testing.T) { onTheWire(t, m) })
	t.Run("probes", func(t *testing.T) {
		// This process is on the node: its address is the bridge's.
		for _, ip := range both(srv) {
			for port, open := range map[uint16]bool{8081: true, 8080: false} {
				c, err := (&net.Dialer{Timeout: patience}).Dial("tcp", at(ip, port))
				if err == nil {
					_ = c.Close()
				}
				if (err == nil) != open {
					t.Errorf("from the node to %s: %v", at(ip, port), err)
				}
			}
			if err := want(outsider, at(ip, 8081), request{path: "/"}, 200, ""); err == nil {
				t.Error("a pod reaches the probes' port in the clear")
			}
		}
	})
	t.Run("a pod's label wins", func(t *testing.T) {
		for i, ip := range serviceIPs("strict", "open") {
			for _, from := range []*lab.Pod{outsider, alice} {
				_ = mustOpen(t, from, at(ip, 70))
				_ = mustOpen(t, from, at(both(m.Pod("strict", "open"))[i], 7070))
			}
		}
	})
	t.Run("permissive", func(t *testing.T) { permissive(t, m) })
	t.Run("a label changes under load", func(t *testing.T) { switched(t, m) })
	t.Run("modes change under load", func(t *testing.T) { flipped(t, m) })
	t.Run("certificates are replaced under load", func(t *testing.T) { rotated(t, m) })
}

// onTheWire captures IPv6 and IPv4 between two strict pods.
func onTheWire(t *testing.T, m *mesh) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
	for i, ip := range serviceIPs("strict", "srv") {
		c, err := capture.Start(srv.HostLink)
		if err != nil {
			t.Fatal(err)
		}
		const secret = "this-is-nobody-elses-business"
		s := mustOpen(t, alice, at(ip, 70))
		err = errors.Join(s.echo(secret), want(alice, at(serviceIPs("strict", "l7")[i], 80), request{path: "/" + secret}, 200, ""))
		wire, cerr := c.Stop()
		if err = errors.Join(err, cerr); err != nil {
			t.Fatal(err)
		}
		ports := wire.Between(both(alice)[i], both(srv)[i])
		if ports[m.bytesPort] == 0 || wire.Contains(secret) {
			t.Errorf("%s: bytes by port %v, secret seen %t", ip, ports, wire.Contains(secret))
		}
		for j := range both(srv) { // Envoy takes either family
			delete(ports, m.bytesPort)
			delete(ports, model.PortHBONE)
			if len(ports) > 0 || !wire.TLSOnly(both(alice)[j], both(srv)[j]) {
				t.Errorf("%s: other bytes by port %v", ip, ports)
			}
			ports = wire.Between(both(alice)[1-i], both(srv)[1-i])
		}
	}
}

// permissive: a peer with an identity comes authenticated, others in the clear.
func permissive(t *testing.T, m *mesh) {
	srv := m.Pod("perm", "srv")
	for i, ip := range serviceIPs("perm", "srv") {
		for _, try := range []struct {
			from          *lab.Pod
			authenticated bool
		}{{m.Pod("perm", "c"), true}, {m.Pod("strict", "alice"), true}, {m.Pod("plain", "c"), false}} {
			c, err := capture.Start(srv.HostLink)
			if err != nil {
				t.Fatal(err)
			}
			s, err := open(try.from, at(ip, 70))
			if err == nil {
				err = s.echo("hello")
				_ = s.Close()
			}
			wire, cerr := c.Stop()
			if err = errors.Join(err, cerr); err != nil {
				t.Fatalf("%s: %v", try.from.Name, err)
			}
			ports := wire.Between(both(try.from)[i], both(srv)[i])
			if ports[m.bytesPort] > 0 != try.authenticated || ports[7070] > 0 == try.authenticated {
				t.Errorf("%s to %s: bytes by port %v", try.from.Name, ip, ports)
			}
		}
	}
}

// switched: disabled, strict, disabled. Who is in the mesh sees nothing of it but the end of connections that were in
// the clear; who is not gets in and is thrown out.
func switched(t *testing.T, m *mesh) {
	outsider, peer := m.Pod("plain", "c"), m.Pod("perm", "c")
	ips := serviceIPs("flip", "srv")
	mode := func(mode string) {
		if err := m.Write("mesh/ns-flip.yaml", []byte(namespaceManifest("flip", mode))); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { mode("disabled") })
	var before []*stream
	for _, ip := range ips {
		before = append(before, mustOpen(t, outsider, at(ip, 70)), mustOpen(t, peer, at(ip, 70)))
	}
	newConnections := load.Config{URL: "http://" + at(ips[0], 80), Dial: peer.Dial, Workers: 4, Rate: 200, NewConnections: true}
	under(t, newConnections, func() {
		mode("strict")
		for _, s := range before {
			if err := s.cut(); err != nil {
				t.Errorf("a connection in the clear to what is strict now: %v", err)
			}
		}
		for _, ip := range ips {
			until(t, "in the clear refused", func() error { return refused(outsider, at(ip, 70)) })
			if s := mustOpen(t, peer, at(ip, 70)); s.server != "flip/srv" {
				t.Errorf("%s answers", s.server)
			}
		}
	})
	under(t, newConnections, func() {
		mode("disabled")
		for _, ip := range ips {
			until(t, "in the clear again", func() error {
				s, err := open(outsider, at(ip, 70))
				if err == nil {
					_ = s.Close()
				}
				return err
			})
		}
	})
}

// rotated waits for new certificates of both ends while requests and bytes flow.
func rotated(t *testing.T, m *mesh) {
	alice := m.Pod("strict", "alice")
	serials := func() (string, error) {
		all := ""
		for _, sa := range []string{"alice", "srv"} {
			list, err := api.List[api.Identity](t.Context(), m.API, api.Identities, "strict", sa)
			if err != nil || len(list) != 1 || list[0].SVID == nil {
				return "", fmt.Errorf("identity of %s: %v, %w", sa, list, err)
			}
			all += list[0].SVID.Serial + " "
		}
		return all, nil
	}
	first, err := serials()
	if err != nil {
		t.Fatal(err)
	}
	long := mustOpen(t, alice, at(serviceIPs("strict", "srv")[0], 70))
	l7 := "http://" + at(serviceIPs("strict", "l7")[0], 80)
	kept, err := load.Start(t.Context(), load.Config{URL: l7, Dial: alice.Dial, Workers: 2, Rate: 100, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	under(t, load.Config{URL: "http://" + at(serviceIPs("strict", "srv")[1], 80), Dial: alice.Dial, Workers: 2, Rate: 100, NewConnections: true}, func() {
		until(t, "both have new certificates", func() error {
			now, err := serials()
			a, b, _ := strings.Cut(strings.TrimSpace(first), " ")
			if err == nil && (strings.Contains(now, a) || strings.Contains(now, b)) {
				err = errors.New("the same as before")
			}
			return err
		})
	})
	if r := kept.Stop(); r.Failed > 0 || r.Requests == 0 {
		t.Errorf("L7: %d of %d failed: %v", r.Failed, r.Requests, r.Failures())
	}
	if err := long.echo("still here"); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
}
