package proxy

import (
	"context"
	"errors"
)

// Run supervises an Envoy until ctx is done (Envoy is then drained and ended) or another supervisor took over (nil, when
// the Envoy of this one has ended).
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	<-ctx.Done()
	return errors.New("proxy: not yet built")
}
