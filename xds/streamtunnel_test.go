package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	wefttunnel "github.com/weft-mesh/weft/tunnel"
)

// answersAndCloses serves on a pod's port: it reads the number of bytes that are wanted from a line, writes them, and closes.
func answersAndCloses(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	go serveEach(l, func(c net.Conn) {
		var n int
		if _, err := fmt.Fscanln(c, &n); err == nil {
			_, _ = c.Write(bytes.Repeat([]byte("x"), n))
		}
	})
}

// placeWorkloads writes which network namespaces the local workloads are in.
func placeWorkloads(t *testing.T, w *world) {
	t.Helper()
	for wl := range w.st.Workloads.By(w.st.Snapshot(), state.ByLocal, "true") {
		var st unix.Stat_t
		if err := unix.Stat(wl.NetNS, &st); err != nil {
			t.Fatal(err)
		}
		put(w, w.st.Placements, &model.Placement{Namespace: wl.Namespace, Name: wl.Name, NetNS: wl.NetNS, Inode: st.Ino})
	}
}

// tunnelProcess is a weft tunnel. It ends when it has drained, or with the test.
type tunnelProcess struct {
	*wefttunnel.Node
	ended   <-chan struct{}
	another func() (*wefttunnel.Node, <-chan struct{}) // runs the one that comes after it
}

// startTunnel runs weft tunnel and the agent's part of it, for the workloads that there are.
func startTunnel(t *testing.T, w *world, log *slog.Logger, flow func(*wefttunnel.Flow)) *tunnelProcess {
	t.Helper()
	placeWorkloads(t, w)
	dir := t.TempDir()
	socket := filepath.Join(dir, wefttunnel.SocketName)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	server := wefttunnel.NewServer(w.st, wefttunnel.Config{TrustDomain: testDomain, Flow: flow, Log: log})
	wg.Go(func() { _ = server.Serve(ctx, l) })
	another := func() (*wefttunnel.Node, <-chan struct{}) {
		n, ended := wefttunnel.New(socket, log), make(chan struct{})
		wg.Go(func() { _ = n.Run(ctx); close(ended) })
		return n, ended
	}
	n, ended := another()
	return &tunnelProcess{n, ended, another}
}

// streamsGateway is a Gateway with an identity whose TCPRoute leads to a Service.
type streamsGateway struct {
	port uint16

	mu     sync.Mutex
	failed map[netip.AddrPort]bool // endpoints that a connection of a client failed at
}

func newStreamsGateway(t *testing.T, w *world, endpoints ...model.Endpoint) *streamsGateway {
	t.Helper()
	g := &streamsGateway{port: freePort(t), failed: map[netip.AddrPort]bool{}}
	gw := identity("shop", "gw")
	put(w, w.st.SVIDs, w.ca.svid(gw))
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "db", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/db", Port: 80, Protocol: model.TCP, Backends: endpoints})
	startTunnel(t, w, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), func(f *wefttunnel.Flow) {
		t.Logf("%+v", f)
		if f.Outbound && f.Failure != "" {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.failed[f.Destination] = true
		}
	})
	ref := streamRef("TCPRoute", "r")
	putStream(w, ref, to("db", 1))
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "streams", Identity: gw, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: g.port, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: ref}}}}}},
	})
	return g
}

// ask asks the server behind the Gateway for n bytes.
func (g *streamsGateway) ask(n int) error {
	c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", g.port), 5*time.Second)
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

func (g *streamsGateway) failedAt(a netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed[a]
}

// TestStreamsEndWhole: a client of a Gateway gets all that a server with an identity wrote before it closed, and then the end.
func TestStreamsEndWhole(t *testing.T) {
	m := newServedWith(t, Config{Tunnel: true})
	answersAndCloses(t, m.b, 9000)
	g := newStreamsGateway(t, m.world, endpointOf(m.wb, 0, 9000))
	until(t, "an answer", func() error { return g.ask(1) })
	for _, n := range []int{1, 184, 100_000, 5_000_000} {
		for range 10 {
			if err := g.ask(n); err != nil {
				t.Error(err)
			}
		}
	}
	m.noRejections()
}

// TestStreamsMoveOn: where an endpoint does not answer, or refuses, connections of a Gateway's clients go to another one.
func TestStreamsMoveOn(t *testing.T) {
	m := newServedWith(t, Config{Tunnel: true}, "c", "d", "e")
	var bad []*model.Workload
	for _, p := range m.others {
		w := workload(p, "shop", model.MTLSPermissive, nil)
		put(m.world, m.st.Workloads, w)
		put(m.world, m.st.SVIDs, m.ca.svid(w.Identity))
		bad = append(bad, w)
	}
	idle, hung, lost := bad[0], bad[1], bad[2]
	good, impostor := endpointOf(m.wb, 0, 9000), &model.Workload{
		Namespace: "shop", Name: "f", Identity: identity("shop", "f"), Node: "other",
		Addresses: []netip.Addr{m.others[0].Address6}, // where pod c shows its own identity
	}
	put(m.world, m.st.Workloads, impostor)
	put(m.world, m.st.Nodes, &model.Node{Name: "other", Accepts: []model.Transport{model.TransportTunnel}})
	answersAndCloses(t, m.b, 9000)
	answersAndCloses(t, m.others[2], 9000)
	neverAccepts(t, m.others[1], 9000)
	g := newStreamsGateway(t, m.world, endpointOf(lost, 0, 9000))
	until(t, "an answer", func() error { return g.ask(1) })
	drop := func(t *testing.T) { podRun(t, m.others[2], "iptables", "-A", "INPUT", "-j", "DROP") }
	for _, test := range []struct {
		name    string
		bad     model.Endpoint
		prepare func(*testing.T)
	}{
		{"a policy denies it", endpointOf(m.wb, 0, 9999), nil},
		{"nobody listens", endpointOf(idle, 0, 9000), nil},
		{"its application does not accept", endpointOf(hung, 0, 9000), nil},
		{"nobody is known there", model.Endpoint{Address: netip.MustParseAddrPort("192.0.2.1:9000"), Identity: idle.Identity, Workload: idle.Key()}, nil},
		{"another identity is there", endpointOf(impostor, 0, 9000), nil},
		{"it stops answering in a session", endpointOf(lost, 0, 9000), drop},
		{"its node is gone", endpointOf(lost, 1, 9000), func(t *testing.T) { podRun(t, m.others[2], "ip6tables", "-A", "INPUT", "-j", "DROP") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.prepare != nil {
				test.prepare(t)
			}
			put(m.world, m.st.Endpoints, &model.Endpoints{Service: "shop/db", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{test.bad, good}})
			until(t, "a connection that was to go there", func() error {
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						if err := g.ask(1000); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if t.Failed() || g.failedAt(test.bad.Address) {
					return nil
				}
				return errors.New("there is none")
			})
		})
	}
	m.noRejections()
}

// neverAccepts listens on a pod's port, and takes no connection: its queue is full.
func neverAccepts(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	at := netip.AddrPortFrom(p.Address, port)
	err := p.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(port)}); err != nil {
			return err
		}
		return unix.Listen(fd, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for {
		c, err := p.Dial(ctx, "tcp", at.String())
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}
