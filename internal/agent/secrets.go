package agent

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/gatewaysecrets"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// secretsFile in the run directory holds the certificates of Gateways, keys included, for the next agent.
	secretsFile = "gateway-secrets.json"
	// secretsPatience is how long an agent that starts waits for them if no other agent serves the node.
	secretsPatience = 10 * time.Second
)

// newSecrets returns nil where Secrets are read with the other objects: from a folder, or with the rights of whoever runs a
// node without a controller.
func newSecrets(cfg Config, objs *kube.Objects, st *state.State, ca *clusterCA) *gatewaysecrets.Receiver {
	if ca == nil {
		return nil
	}
	return gatewaysecrets.NewReceiver(gatewaysecrets.ReceiverConfig{
		Objects: objs, State: st, File: filepath.Join(cfg.RunDir, secretsFile), Log: cfg.Log,
		Open: func(ctx context.Context) (io.ReadCloser, error) { return ca.remote.Stream(ctx, gatewaysecrets.Path) },
	})
}

// awaitSecrets returns when it is known which Secrets of Gateways and which certificates of authorities this node has. What is
// translated without them would take HTTPS listeners and backends with TLS away. While another agent serves the node, it goes on serving, and this one waits. If there is none, pods
// that start wait for this one, so it goes on without them after a time.
func (a *Agent) awaitSecrets(ctx context.Context) {
	if a.secrets == nil || !a.gateway.RefersToCertificates(a.st.Snapshot()) {
		return
	}
	for others, patience := a.noOther, (<-chan time.Time)(nil); ; {
		select {
		case <-ctx.Done():
			return
		case <-a.secrets.Known():
			return
		case <-others:
			others, patience = nil, time.After(secretsPatience)
		case <-patience:
			a.cfg.Log.Error("no controller sends the certificates of Gateways; HTTPS listeners and backends with TLS are not served until one does")
			return
		}
	}
}
