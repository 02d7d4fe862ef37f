package mtls

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/weft-mesh/weft/internal/model"
)

// Source issues SVIDs of one trust domain.
type Source interface {
	// Sign makes an SVID with a new key for each of at most MaxBatch identities, in their order. The caller has made sure
	// that workloads with them run on this node.
	Sign(ctx context.Context, ids []model.Identity) []Issued
	// Bundle holds the roots that verify what Sign makes, and those that will; nil while they are not known.
	Bundle() *model.Bundle
	// Changed tells that the bundle may be another, or that what failed may work now; nil if that never is so.
	Changed() <-chan struct{}
}

// Issued is an SVID, or why there is none.
type Issued struct {
	SVID *model.SVID
	Err  error
}

// Config of the CA and of the Manager. The zero value of a field is its default, TrustDomain and StateDir excepted.
type Config struct {
	// TrustDomain is the name in spiffe://<name>/...
	TrustDomain string
	// StateDir keeps the CA's key, in ca/ with mode 0700.
	StateDir string
	// TTL of an SVID: DefaultTTL, at least MinTTL.
	TTL time.Duration
	// Kept is where a Manager keeps SVIDs, so that they outlive it; nil for nowhere.
	Kept *SVIDStore
	Log  *slog.Logger
}

// Limits and default of SVIDs' lives.
const (
	DefaultTTL = time.Hour
	MinTTL     = 10 * time.Second
)

func (c Config) withDefaults() (Config, spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return c, td, fmt.Errorf("mtls: trust domain %q: %w", c.TrustDomain, err)
	}
	if td.Name() != c.TrustDomain {
		return c, td, fmt.Errorf("mtls: trust domain %q: give the name alone, %q", c.TrustDomain, td.Name())
	}
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	if c.TTL < MinTTL || c.TTL > rootTTL/4 {
		return c, td, fmt.Errorf("mtls: SVIDs that live %v: at least %v and at most %v are possible", c.TTL, MinTTL, rootTTL/4)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, td, nil
}
