package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	als "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/state"
)

// Config of a Server.
type Config struct {
	// Node is this node's name.
	Node string
	// TrustDomain is the SPIFFE trust domain whose identities are accepted.
	TrustDomain string
	// Log may be nil: nothing is logged.
	Log *slog.Logger
	// AccessLog gets what Envoy reports of connections (and of requests, if RequestLog is set). It must be quick and
	// may be called from several goroutines. Nil: Envoy is not asked to report.
	AccessLog func(*Flow)
	// RequestLog asks for a Flow for each HTTP request, not for each authenticated connection only.
	RequestLog bool
	// RequestStats makes Envoy count requests and their durations.
	RequestStats bool
	// Traces is nil if no spans are wanted.
	Traces *Traces
	// GatewayNetNS is the path, in Envoy, to the network namespace that Gateways' addresses are in; "" is that of Envoy's
	// main thread. Envoy 1.40 loses its own: it stays in the namespace of a pod in which it cannot bind a port.
	GatewayNetNS string
	// ConnectionsPerListener bounds the connections of each pod's listeners, and of all Gateways of a namespace five
	// times as many; 10,000 if it is 0. Envoy as a whole has a limit too, of ten times as many: without this one a single pod could use it up, and
	// nobody else would be served.
	ConnectionsPerListener uint64
	// Sessions bounds the sessions of datagrams that the UDP ports of all Gateways have together; 25,000 if it is 0.
	Sessions uint64

	// Tunnel sends requests, and connections of Gateways' TLSRoutes and TCPRoutes, by weft tunnel where that is possible.
	Tunnel bool
	// TunnelPort is where weft tunnel took Envoy's connections before this agent; 0 if that is not known.
	TunnelPort uint16

	// SystemRoots are the certificates that the node's system trusts, as PEM, for BackendTLSPolicies that ask for these. Without
	// them nothing is sent to the targets of such a policy.
	SystemRoots []byte

	testTimeouts    *timeouts // nil: defaultTimeouts
	testCalledPorts int       // 0: maxCalledPorts
}

// Server serves resources to any number of Envoys.
type Server struct {
	st  *state.State
	cfg Config
	log *slog.Logger

	mu    sync.Mutex // guards all below
	cache *cache
}

// New makes a Server that reads the model from st and writes st.Accepted and st.Rejections.
func New(st *state.State, cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{st: st, cfg: cfg, log: log}
	s.cache = newCache(s)
	return s
}

// sources are the tables that resources are built from. A change of another table reaches no Envoy.
func sources(st *state.State) []state.AnyTable {
	return []state.AnyTable{
		st.Workloads, st.Services, st.Endpoints, st.RouteTables, st.StreamRoutes, st.Divisions, st.BackendTLS, st.Gateways, st.Certificates,
		st.SVIDs, st.Bundles, st.Placements, st.Nodes, st.Carried,
	}
}

// Serve answers Envoys on l until ctx ends, and closes l. It answers nothing before st.Synced().
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	feed := s.st.Feed(sources(s.st)...)
	s.mu.Lock()
	_, s.cache.snap = feed.Take()
	s.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer feed.Close()
	defer cancel()
	wg.Go(func() { s.follow(ctx, feed) })
	wg.Go(func() { s.report(ctx) })

	g := grpc.NewServer(grpc.ForceServerCodecV2(newTextCodec()))
	discovery.RegisterAggregatedDiscoveryServiceServer(g, &ads{server: s, ctx: ctx})
	als.RegisterAccessLogServiceServer(g, &accessLogs{server: s})
	wg.Go(func() {
		<-ctx.Done()
		g.Stop()
	})
	if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("xds: serve Envoys on %s: %w", l.Addr(), err)
	}
	return nil
}

// follow keeps what Envoys are subscribed to as the tables are.
func (s *Server) follow(ctx context.Context, feed *state.Feed) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed.Ready():
			s.mu.Lock()
			// Taken under the lock: an Envoy that asks meanwhile must not be answered from a newer view than this one.
			keys, snapshot := feed.Take()
			s.cache.update(keys, snapshot)
			s.mu.Unlock()
		}
	}
}

// Build makes a resource from the present state, subscribed to or not; false if there is none of that name.
func (s *Server) Build(typeURL, name string) (proto.Message, bool) {
	k := kinds[typeURL]
	if k == nil {
		return nil, false
	}
	b := k.build(&builder{st: s.st, snap: s.st.Snapshot(), cfg: &s.cfg}, name)
	if b == nil || b.err != nil {
		return nil, false
	}
	return b.message, true
}

// ads is the gRPC service.
type ads struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
	ctx    context.Context // Serve's: streams end with it
}

// DeltaAggregatedResources serves one Envoy.
func (a *ads) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	select {
	case <-a.server.st.Synced():
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-a.ctx.Done():
		return status.Error(codes.Unavailable, "the agent is stopping")
	}
	ss := newSession(a.server)
	defer ss.close()
	return delta.NewServer(a.ctx, ss, nil).DeltaStreamHandler(stream, "") // "": the request says the type
}
