//go:build cluster

package e2e

import (
	"context"

	"github.com/weft-mesh/weft/test/cluster"
)

// install installs Weft as it is now, or upgrades to it, and gives it the suite's addresses.
func (e *env) install(ctx context.Context) error {
	if err := e.InstallWeft(ctx); err != nil {
		return err
	}
	return e.pool(ctx, pool)
}

// pool makes the cluster's AddressPool hold these addresses.
func (e *env) pool(ctx context.Context, addresses ...string) error {
	return e.api.applyOne(ctx, object{
		"apiVersion": "weft.io/v1alpha1", "kind": "AddressPool", "metadata": object{"name": cluster.PoolName},
		"spec": object{"addresses": addresses},
	})
}
