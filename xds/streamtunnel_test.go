package xds

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	wefttunnel "github.com/weft-mesh/weft/tunnel"
)

// answersAndCloses serves on a pod's port: it reads the number of bytes that are wanted from a line, writes them, and closes.
func answersAndCloses(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l, err := p.Listen("tcp", netip.AddrPortFrom(p.Address, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go serveEach(l, func(c net.Conn) {
		var n int
		if _, err := fmt.Fscanln(c, &n); err == nil {
			_, _ = c.Write(bytes.Repeat([]byte("x"), n))
		}
	})
}

// startTunnel runs weft tunnel and the agent's part of it.
func startTunnel(t *testing.T, w *world, log *slog.Logger) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, wefttunnel.SocketName)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	server := wefttunnel.NewServer(w.st, wefttunnel.Config{TrustDomain: testDomain, Flow: func(f *wefttunnel.Flow) { t.Logf("%+v", f) }, Log: log})
	wg.Go(func() { _ = server.Serve(ctx, l) })
	wg.Go(func() { _ = wefttunnel.New(socket, log).Run(ctx) })
}

// TestStreamsEndWhole: a client of a Gateway gets all that a server with an identity wrote before it closed, and then the end.
func TestStreamsEndWhole(t *testing.T) {
	m := newServedWith(t, Config{Tunnel: true})
	gw := identity("shop", "gw")
	put(m.world, m.st.SVIDs, m.ca.svid(gw))
	answersAndCloses(t, m.b, 9000)
	put(m.world, m.st.Services, &model.Service{Namespace: "shop", Name: "db", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(m.world, m.st.Endpoints, &model.Endpoints{Service: "shop/db", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(m.wb, 0, 9000)}})
	startTunnel(t, m.world, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	port, ref := freePort(t), streamRef("TCPRoute", "r")
	putStream(m.world, ref, to("db", 1))
	put(m.world, m.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "streams", Identity: gw, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: ref}}}}}},
	})
	ask := func(n int) error {
		c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", port), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintln(c, n)
		got, err := io.Copy(io.Discard, c)
		if err == nil && got != int64(n) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%d of %d bytes: %w", got, n, err)
		}
		return nil
	}
	until(t, "an answer", func() error { return ask(1) })
	for _, n := range []int{1, 184, 100_000, 5_000_000} {
		for range 10 {
			if err := ask(n); err != nil {
				t.Error(err)
			}
		}
	}
	m.noRejections()
}
