package relay

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/servicemap/web"
)

// mapAge is how long the graph of all nodes is good for: however many readers there are, nodes are asked so often.
const mapAge = 2 * time.Second

// graphs keeps the last graph of all nodes. mu is held while nodes are asked, so that readers wait for one answer; each reader
// asks for what it may see of it.
type graphs struct {
	mu   chan struct{} // holds a value while it is taken
	last *servicemap.Graph
	at   time.Time
}

// ServeMap serves the service map's page until ctx ends, to those who may list flows.
func (s *Server) ServeMap(ctx context.Context, l net.Listener, config *tls.Config) error {
	return web.Serve(ctx, l, config, counted(web.Handler(s.viewer)))
}

// viewer returns what the bearer of a token may see of the map.
func (s *Server) viewer(ctx context.Context, source, token string) (web.View, error) {
	if token == "" || len(token) > maxToken {
		return nil, &web.Error{Status: http.StatusUnauthorized, Text: "no token: give one of a user or ServiceAccount that may list flows.weft.io"}
	}
	c := &caller{source: source, token: token, right: toFlows}
	if err := s.review(ctx, c); err != nil {
		return nil, webError(err)
	}
	return &view{s, c}, nil
}

// webError returns the answer by HTTP for an error by gRPC.
func webError(err error) error {
	st := status.Convert(err)
	code, ok := map[codes.Code]int{
		codes.Unauthenticated: http.StatusUnauthorized, codes.PermissionDenied: http.StatusForbidden,
		codes.ResourceExhausted: http.StatusTooManyRequests, codes.Unavailable: http.StatusServiceUnavailable,
	}[st.Code()]
	if !ok {
		code = http.StatusInternalServerError
	}
	return &web.Error{Status: code, Text: st.Message()}
}

// view is what a caller may see.
type view struct {
	server *Server
	caller *caller
}

// Graph implements web.View.
func (v *view) Graph(ctx context.Context) (*servicemap.Graph, error) {
	g, err := v.server.graph(ctx)
	if err != nil || v.caller.scope.All {
		return g, err
	}
	shown := g.For(v.caller.scope.Allows)
	shown.Namespaces = v.caller.scope.Namespaces
	return shown, nil
}

// Flows implements web.View.
func (v *view) Flows(ctx context.Context, p servicemap.Pair) ([]observe.Flow, error) {
	scope := v.caller.scope
	if !scope.All && !scope.Allows(p.From.Namespace) && !scope.Allows(p.To.Namespace) {
		return nil, &web.Error{Status: http.StatusForbidden, Text: v.caller.user + " may list flows.weft.io in neither namespace"}
	}
	give, err := v.server.take(v.caller.user)
	if err != nil {
		return nil, webError(err)
	}
	defer give()
	var of [][]observe.Flow
	for _, n := range ask(ctx, v.server, func(ctx context.Context, n *node) (*[]observe.Flow, error) {
		flows, err := servicemap.AskFlows(ctx, n.grpc, p)
		return &flows, err
	}) {
		if n.answer == nil {
			continue
		}
		var shown []observe.Flow
		for _, f := range *n.answer {
			if scope.All || scope.Allows(f.Source.Namespace()) || scope.Allows(f.Destination.Namespace()) {
				shown = append(shown, f)
			}
		}
		of = append(of, shown)
	}
	return servicemap.LastFlows(of...), nil
}

// graph returns the graph of all nodes. What it returns is shared, and must not be changed.
func (s *Server) graph(ctx context.Context) (*servicemap.Graph, error) {
	select {
	case s.graphs.mu <- struct{}{}:
		defer func() { <-s.graphs.mu }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.graphs.last != nil && time.Since(s.graphs.at) < mapAge {
		return s.graphs.last, nil
	}
	missing := s.cfg.Nodes.missing()
	var parts []*servicemap.Part
	// A reader that goes must not spoil the answer for the others.
	for _, n := range ask(context.WithoutCancel(ctx), s, func(ctx context.Context, n *node) (*servicemap.Part, error) {
		return servicemap.AskPart(ctx, n.grpc)
	}) {
		if n.answer == nil {
			missing = append(missing, n.node.name)
			continue
		}
		parts = append(parts, n.answer)
	}
	slices.Sort(missing)
	s.graphs.last, s.graphs.at = servicemap.Merge(time.Now(), parts, missing), time.Now()
	return s.graphs.last, nil
}
