//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
)

// install waits for Weft, which it installs where it is not.
func (e *env) install(ctx context.Context) error {
	err := e.api.get(ctx, "apps/v1", "Deployment", system, "weft-controller", nil)
	if errors.Is(err, errNotFound) {
		return fmt.Errorf("Weft is not installed")
	}
	return err
}
