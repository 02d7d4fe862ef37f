package agent

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/tunnel"
)

// Forget removes what agents leave in their run and state directories, but for the CA's key, by which certificates that
// are out there can be checked. Call it when no agent runs and the CNI plugin, which reads the namespaces' modes, is out.
func Forget(runDir, stateDir string) error {
	var errs []error
	for _, name := range []string{enforceFile, placementsFile, secretsFile, proxyLog, xdsSocket, tunnel.SocketName, tunnel.GatewayPortFile, api.SocketName, cniSocket, takeoverSocket} {
		if err := os.Remove(filepath.Join(runDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{modesFile, selectionsFile, svidsDir} {
		errs = append(errs, os.RemoveAll(filepath.Join(stateDir, name)))
	}
	return errors.Join(errs...)
}
