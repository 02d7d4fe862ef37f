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

	"github.com/weft-mesh/weft/internal/model"
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
	// ConnectionsPerListener bounds the connections of each pod's listeners, a Gateway's five times as many; 10,000 if
	// it is 0. Envoy as a whole has a limit too, of ten times as many: without this one a single pod could use it up, and
	// nobody else would be served.
	ConnectionsPerListener uint64

	testTimeouts *timeouts // nil: defaultTimeouts
}

// Server serves resources to any number of Envoys.
type Server struct {
	st  *state.State
	cfg Config
	log *slog.Logger

	mu    sync.Mutex // guards all below
	cache *cache
}

// New makes a Server that reads the model from st and writes st.Rejections.
func New(st *state.State, cfg Config) *Server {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{st: st, cfg: cfg, log: log}
	s.cache = newCache(s)
	return s
}

// Serve answers Envoys on l until ctx ends, and closes l. It answers nothing before st.Synced().
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	feed := s.st.Feed()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer feed.Close()
	defer cancel()
	wg.Go(func() { s.follow(ctx, feed) })

	g := grpc.NewServer()
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
			keys, snapshot := feed.Take()
			s.mu.Lock()
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

// Accepted tells whether some connected Envoy has accepted a resource as it follows from the tables at this moment: not
// an older version, though the newest may not have been built yet.
func (s *Server) Accepted(typeURL, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.cache.stores[typeURL]
	if st == nil {
		return false
	}
	for sub := range st.subs {
		if sub.accepted(name) { // cheap, and so before the resource is built to be compared
			return s.cache.current(st, name)
		}
	}
	return false
}

// Connected tells whether some Envoy is connected and asks for listeners.
func (s *Server) Connected() bool { return s.subscribed(TypeListener) }

func (s *Server) subscribed(typeURL string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cache.stores[typeURL].subs) > 0
}

// Listens tells whether some connected Envoy has all that it needs to take authenticated connections to a local
// workload as the tables have it now. It takes what it accepted into use at once, some milliseconds later at most.
func (s *Server) Listens(w *model.Workload) bool {
	for _, name := range ListenerNames(w) {
		if !s.Accepted(TypeListener, name) {
			return false
		}
	}
	for _, name := range FilterNames(w) {
		if !s.Accepted(TypeFilter, name) {
			return false
		}
	}
	return w.Identity == "" || s.Accepted(TypeSecret, serverPrefix+string(w.Identity)) && s.Accepted(TypeSecret, SecretRootCA)
}

// Routes tells whether some connected Envoy has accepted the scopes by which this node's callers find the routes of a
// service port.
func (s *Server) Routes(svc *model.Service, port uint16) bool {
	if !s.subscribed(TypeScope) {
		return false
	}
	b := &builder{st: s.st, snap: s.st.Snapshot(), cfg: &s.cfg}
	b.mode = callers(b)
	for _, a := range svc.Addresses {
		for _, name := range scopeNames(b, a.String()) {
			if at, _, ok := parseScopeKey(name); ok && at.Port() == port && !s.Accepted(TypeScope, name) {
				return false
			}
		}
	}
	return true
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
