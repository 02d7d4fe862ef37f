package relay

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/kube/access"
)

// right is a resource that a caller must be allowed to list.
type right string

const (
	toFlows  right = access.Flows
	toConfig right = access.Config
)

// roles are the ClusterRoles that allow a right.
var roles = map[right]string{toFlows: "weft-flows-viewer", toConfig: "weft-viewer"}

// Access says who may see what of which namespaces: *access.Reviewer, of which it is Review.
type Access interface {
	Review(ctx context.Context, source, token string) (user string, all bool, namespaces []string, err error)
}

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// caller is who asks.
type caller struct {
	source, token string
	right         right // that he needs
	user          string
	scope         hubble.Scope
}

// authenticate returns the caller of a request. A token comes as "Bearer TOKEN", or as the password of "Basic", which is
// what the hubble command can send; the user's name is not looked at then.
func (s *Server) authenticate(ctx context.Context, right right) (*caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return nil, status.Error(codes.Unauthenticated, "no token: send one as a bearer token, or as the password of basic authentication")
	}
	c := &caller{token: token(values[0]), right: right}
	if c.token == "" || len(c.token) > maxToken {
		return nil, status.Error(codes.Unauthenticated, "no token: send one as a bearer token, or as the password of basic authentication")
	}
	if p, ok := peer.FromContext(ctx); ok {
		c.source, _, _ = net.SplitHostPort(p.Addr.String())
	}
	return c, s.review(ctx, c)
}

// review looks again at what the caller may see.
func (s *Server) review(ctx context.Context, c *caller) (err error) {
	by := s.cfg.Access
	if c.right == toConfig {
		by = s.cfg.ConfigAccess
	}
	c.user, c.scope.All, c.scope.Namespaces, err = by.Review(ctx, c.source, c.token)
	switch {
	case errors.Is(err, access.ErrToken):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.Is(err, access.ErrBusy):
		return status.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		return status.Errorf(codes.Unavailable, "the API server did not review the token: %v", err)
	case !c.scope.All && len(c.scope.Namespaces) == 0:
		return status.Errorf(codes.PermissionDenied, "%s may list %s.weft.io in no namespace; see the ClusterRole %s", c.user, c.right, roles[c.right])
	}
	return nil
}

// whileAllowed runs what answers a caller for as long as it may, and looks at what the caller may see now and again. A change ends
// the context, and is the error. What nodes are asked for is what it was at the start.
func (s *Server) whileAllowed(ctx context.Context, c *caller, run func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		tick := time.NewTicker(s.cfg.Times.Review)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := s.changed(ctx, *c); err != nil {
				end(err)
				return
			}
		}
	}()
	err := run(ctx)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// changed returns an error if a caller may not see what it might before. While the API server is away, what was reviewed last stays
// in force.
func (s *Server) changed(ctx context.Context, c caller) error {
	before := c.scope
	err := s.review(ctx, &c)
	switch {
	case status.Code(err) == codes.Unavailable:
		return nil
	case err != nil:
		return err
	case !c.scope.Equal(before):
		return status.Error(codes.Aborted, "what you may see has changed; ask again")
	}
	return nil
}

func token(header string) string {
	scheme, value, _ := strings.Cut(header, " ")
	switch strings.ToLower(scheme) {
	case "bearer":
		return strings.TrimSpace(value)
	case "basic":
		text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
		if err != nil {
			return ""
		}
		_, password, _ := strings.Cut(string(text), ":")
		return password
	}
	return ""
}
