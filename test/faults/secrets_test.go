package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
)

// secrets: what the node keeps is its owner's alone, and no command shows a private key.
func secrets(t *testing.T, n *node) {
	sockets := 0
	for _, dir := range []string{n.RunDir, filepath.Join(n.Dir, "state")} {
		if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if perm := info.Mode().Perm(); perm&0o077 != 0 {
				t.Errorf("%s has mode %o", path, perm)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
				t.Errorf("%s belongs to %d", path, owner)
			}
			if info.Mode()&fs.ModeSocket != 0 {
				sockets++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if sockets < 4 {
		t.Errorf("%d sockets", sockets)
	}
	for _, what := range []string{"services", "routes", "endpoints", "identities", "certificates", "policies", "gateways", "status"} {
		out, code := runWith(t, start{}, n.Binary, "config", what, "-o", "yaml", "--run", n.RunDir)
		if code != 0 || strings.Contains(out, "PRIVATE KEY") {
			t.Errorf("config %s: exit status %d: %s", what, code, out)
		}
	}
	out, code := runWith(t, start{uid: 65534}, n.Binary, "status", "--run", n.RunDir)
	if code == 0 || !strings.Contains(out, "permission denied") {
		t.Errorf("another user sees the status: %d %s", code, out)
	}
}

// ownPorts: the mesh's ports in a pod are of no use to others, and to the pod itself only as the kernel leads there.
func ownPorts(t *testing.T, n *node) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Where Envoy looks for something that is not there it takes its time, so all of them ask at once.
	var all sync.WaitGroup
	defer all.Wait()
	for _, from := range []*lab.Pod{n.passerby, n.client, n.teller} {
		for _, port := range []uint16{15001, 15002, 15003, 15004, 15006} {
			for _, a := range []netip.Addr{n.vault.Address, n.vault.Address6} {
				if status, body, err := get(from, netip.AddrPortFrom(a, port), "/"); err == nil {
					t.Errorf("%s reaches %s:%d: %d %s", from.Name, a, port, status, body)
				}
			}
		}
		for _, line := range []string{"GET / HTTP/1.1", "GET http://" + n.vaultPod.String() + "/ HTTP/1.1", "CONNECT " + n.vaultPod.String() + " HTTP/1.1"} {
			for _, at := range []string{"127.0.0.1:15001", "127.0.0.1:15002", "127.0.0.1:15003", "127.0.0.1:15004", "[::1]:15001", "[::1]:15002", "[::1]:15003", "[::1]:15004"} {
				all.Go(func() {
					c, err := from.Dial(ctx, "tcp", at)
					if err != nil {
						return
					}
					defer c.Close()
					status, body, err := request(c, line, "Host: "+n.vaultPod.String(), "x-weft-scope: "+n.vaultService.String())
					if err == nil && status < 400 {
						t.Errorf("%s: %q at %s: %d %s", from.Name, line, at, status, body)
					}
				})
			}
		}
		self, err := selfSigned()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range servers {
			if err := n.knock(ctx, from, s, nil); err == nil {
				t.Errorf("%s is let in at %d without a certificate", from.Name, s.port)
			}
			if err := n.knock(ctx, from, s, []tls.Certificate{self}); err == nil {
				t.Errorf("%s is let in at %d with a certificate of its own making", from.Name, s.port)
			}
		}
	}
	// A request through a route says what it wants, not where it goes.
	for _, line := range []string{"GET http://" + n.vaultPod.String() + "/ HTTP/1.1", "CONNECT " + n.vaultPod.String() + " HTTP/1.1"} {
		c, err := n.client.Dial(ctx, "tcp", n.web.String())
		if err != nil {
			t.Fatal(err)
		}
		if status, body, err := request(c, line, "Host: "+n.vaultPod.String(), "Connection: Upgrade", "Upgrade: h2c"); err == nil && strings.Contains(body, "vault") {
			t.Errorf("%q at %s: %d %s", line, n.web, status, body)
		}
		_ = c.Close()
	}
}

// server is a port of a pod at which peers authenticate themselves, and what they send first.
type server struct {
	port        uint16
	alpn, hello string
}

var servers = []server{
	{15008, "h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
	{15009, "weft-tunnel/1", ""},
}

// knock connects to a port of the vault and waits for the server's word: in TLS 1.3 it judges the client's certificate after
// the client is done. A server that waits has let the client in.
func (n *node) knock(ctx context.Context, from *lab.Pod, at server, certs []tls.Certificate) error {
	c, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(n.vault.Address, at.port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{at.alpn}}) //nolint:gosec // an attacker does not care
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	if err := s.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := s.Write([]byte(at.hello)); err != nil {
		return err
	}
	if _, err = s.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// logs: nothing that was written down meanwhile holds a key or says that something went wrong inside.
func logs(t *testing.T, n *node) {
	for _, path := range []string{n.AgentLog(), filepath.Join(n.RunDir, "proxy.log"), filepath.Join(n.RunDir, "envoy.json")} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, bad := range []string{"PRIVATE KEY", "panic:", "goroutine ", "%!"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
	if cores, _ := filepath.Glob("core*"); len(cores) > 0 {
		t.Error(cores)
	}
	var st unix.Stat_t
	if err := unix.Stat(n.AgentLog(), &st); err != nil || st.Size == 0 {
		t.Error(fmt.Errorf("agent's log: %d bytes, %w", st.Size, err))
	}
}
