package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/connlimit"
)

// Bounds of the service.
const (
	maxConns         = 256       // TCP connections
	maxStreams       = 16        // of a connection
	maxRequest       = 256 << 10 // bytes of a message
	maxRequests      = 64        // with many answers, of all callers
	maxRequestsOfOne = 8         // of one of them
)

// Config of a Server.
type Config struct {
	Nodes *Nodes
	// Access says who may list flows, ConfigAccess who may list what the mesh makes of objects; nil for nobody.
	Access, ConfigAccess Access
	Version              string
	Times                Times // DefaultTimes if zero
	Log                  *slog.Logger
}

// Times of requests.
type Times struct {
	// Node bounds how long a node may take to send the next of what it has kept, and Client how long a client may take to
	// read a message.
	Node, Client time.Duration
	// Again lies before a node that does not answer is asked again for what comes afterwards. It doubles with each attempt, up to
	// mostAgain times as long.
	Again time.Duration
	// Review lies between two looks at what the caller of an answer that goes on may see.
	Review time.Duration
}

// DefaultTimes suit a cluster.
var DefaultTimes = Times{Node: 10 * time.Second, Client: 30 * time.Second, Again: 5 * time.Second, Review: 30 * time.Second}

// Server answers clients.
type Server struct {
	observerpb.UnimplementedObserverServer
	peerpb.UnimplementedPeerServer
	cfg    Config
	graphs graphs

	mu       sync.Mutex
	requests map[string]int // with many answers, by user
	all      int
}

// NewServer makes a Server.
func NewServer(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes
	}
	return &Server{cfg: cfg, graphs: graphs{mu: make(chan struct{}, 1)}, requests: map[string]int{}}
}

// Serve answers at a listener until ctx ends. Requests that are under way, and the connections of agents, are ended then.
func (s *Server) Serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)), grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(2*maxToken),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: alive, Timeout: alive}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	observerpb.RegisterObserverServer(server, s)
	peerpb.RegisterPeerServer(server, s)
	if s.cfg.ConfigAccess != nil {
		s.registerMesh(server)
	}
	h := health.NewServer()
	h.SetServingStatus("hubble.server.Observer", healthpb.HealthCheckResponse_SERVING) // by which hubble status asks
	healthpb.RegisterHealthServer(server, h)
	defer s.cfg.Nodes.close()
	done := make(chan error, 1)
	go func() { done <- server.Serve(connlimit.Listen(l, maxConns, maxConns)) }()
	select {
	case err := <-done:
		return fmt.Errorf("flows API: %w", err)
	case <-ctx.Done():
	}
	h.Shutdown() // those who watch would keep the server from ending
	server.Stop()
	if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("flows API: %w", err)
	}
	return nil
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller { return ctx.Value(callerKey{}).(*caller) }

// unary authenticates requests with one answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	end := begun(info.FullMethod)
	defer func() { end(err) }()
	c, err := s.authenticate(ctx, toFlows)
	if err != nil {
		return nil, err
	}
	return next(context.WithValue(ctx, callerKey{}, c), req)
}

// stream authenticates requests with many answers.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	end := begun(info.FullMethod)
	defer func() { end(err) }()
	right := toFlows
	switch info.FullMethod {
	case api.MeshAsk, api.MeshExplain, api.MeshDescribe:
		right = toConfig
	}
	c, err := s.authenticate(stream.Context(), right)
	if err != nil {
		return err
	}
	give, err := s.take(c.user)
	if err != nil {
		return err
	}
	defer give()
	return next(srv, &authenticated{stream, context.WithValue(stream.Context(), callerKey{}, c)})
}

type authenticated struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (a *authenticated) Context() context.Context { return a.ctx }

// take counts a request of a user, until the function that it returns is called.
func (s *Server) take(user string) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.all >= maxRequests:
		return nil, status.Errorf(codes.ResourceExhausted, "%d requests are answered already", maxRequests)
	case s.requests[user] >= maxRequestsOfOne:
		return nil, status.Errorf(codes.ResourceExhausted, "%d requests of %s are answered already", maxRequestsOfOne, user)
	}
	s.all++
	s.requests[user]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.requests[user]--; s.requests[user] == 0 {
			delete(s.requests, user)
		}
	}, nil
}
