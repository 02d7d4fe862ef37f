package hubble

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/weft-mesh/weft/internal/servicemap"
)

const (
	// Path is where the CA's service takes the connections of agents.
	Path = "/v1/flows"
	// Protocol is the one that they change to (RFC 9110, Upgrade): HTTP/2 with the agent as the server, and gRPC on it.
	Protocol = "weft-flows"
	// maxReplicas bounds the controllers that an agent has a connection to.
	maxReplicas = 16
	// alive is how often either end asks whether the other is there.
	alive = 20 * time.Second
	// maxRequest bounds a message to an agent, in bytes: filters, and the namespaces of a scope.
	maxRequest = 4 << 20

	firstRetry, lastRetry = 500 * time.Millisecond, 30 * time.Second
)

// Uplink serves an Observer, and a node's part of the service map, on connections that it opens to every replica of the controller.
type Uplink struct {
	Observer *Observer
	Map      *servicemap.Local // nil for none
	// Rows registers what serves the node's rows; nil for nothing.
	Rows func(grpc.ServiceRegistrar)
	// Dial opens a connection to a replica and proves to it whose node this is.
	Dial func(ctx context.Context, replica netip.AddrPort) (net.Conn, error)
	// Replicas calls back with the replicas, and again when they are others, until ctx ends.
	Replicas func(ctx context.Context, now func([]netip.AddrPort)) error
	Log      *slog.Logger
}

// Run keeps the connections until ctx ends, then closes them and returns nil.
func (u *Uplink) Run(ctx context.Context) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(2*maxQueries),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: alive, Timeout: alive}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: alive / 2, PermitWithoutStream: true}),
	)
	observerpb.RegisterObserverServer(server, u.Observer)
	if u.Map != nil {
		servicemap.Register(server, u.Map)
	}
	if u.Rows != nil {
		u.Rows(server)
	}
	l := &opened{conns: make(chan net.Conn), closed: make(chan struct{})}
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(l) }) // it ends with the listener, which fails no other way
	running := map[netip.AddrPort]context.CancelFunc{}
	err := u.Replicas(ctx, func(replicas []netip.AddrPort) {
		wanted := map[netip.AddrPort]bool{}
		for _, r := range replicas[:min(len(replicas), maxReplicas)] {
			wanted[r] = true
			if running[r] == nil {
				one, cancel := context.WithCancel(ctx)
				running[r] = cancel
				all.Go(func() { u.keep(one, r, l) })
			}
		}
		for r, cancel := range running {
			if !wanted[r] {
				cancel()
				delete(running, r)
			}
		}
	})
	for _, cancel := range running {
		cancel()
	}
	server.Stop()
	all.Wait()
	return err
}

// keep has a connection to a replica open until ctx ends.
func (u *Uplink) keep(ctx context.Context, replica netip.AddrPort, to *opened) {
	wait, said := firstRetry, ""
	for ctx.Err() == nil {
		begin := time.Now()
		conn, err := u.Dial(ctx, replica)
		if err == nil {
			said = ""
			c := &watched{Conn: conn, gone: make(chan struct{})}
			if to.give(ctx, c) {
				select {
				case <-c.gone:
				case <-ctx.Done():
				}
			}
			_ = c.Close() // it may be closed already
		} else if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			u.Log.Warn("a controller does not take this node's flows; it is tried again", "controller", replica.String(), "error", err)
		}
		if time.Since(begin) > lastRetry {
			wait = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		wait = min(2*wait, lastRetry)
	}
}

// opened is a listener of connections that this side opened.
type opened struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *opened) give(ctx context.Context, c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (l *opened) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *opened) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *opened) Addr() net.Addr { return &net.TCPAddr{} }

// watched tells when it is closed.
type watched struct {
	net.Conn
	gone chan struct{}
	once sync.Once
}

// Close implements net.Conn.
func (c *watched) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}
