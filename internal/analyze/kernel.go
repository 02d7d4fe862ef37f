package analyze

import (
	"fmt"
	"log/slog"

	"github.com/weft-mesh/weft/datapath"
)

// Kernel returns what an agent writes into the BPF maps, a line an entry: frontends of Services with their backends, and
// peers with an identity. Entries of the pods of one node are left out, for they depend on where a pod runs.
func (m *Mesh) Kernel() (string, error) {
	path, err := datapath.NewOffline(m.st, false, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", fmt.Errorf("translate for the kernel: %w", err)
	}
	defer func() { _ = path.Close() }()
	if err := path.Sync(); err != nil {
		return "", fmt.Errorf("translate for the kernel: %w", err)
	}
	return path.Entries()
}
