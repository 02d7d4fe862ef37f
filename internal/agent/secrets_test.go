package agent

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/gatewaysecrets"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/state"
)

const httpsGateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: weft
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]
`

// TestAgentWaitsForSecrets: while another agent serves the node, one that lacks the Secrets of Gateways waits for them, or
// it would take HTTPS listeners away.
func TestAgentWaitsForSecrets(t *testing.T) {
	for name, c := range map[string]struct {
		manifests string
		waits     bool
	}{
		"a Gateway that refers to a Secret": {httpsGateway, true},
		"none":                              {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, db := t.TempDir(), state.NewDB()
			objs, st := kube.NewObjects(db), state.New(db)
			if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(c.manifests), 0o600); err != nil {
				t.Fatal(err)
			}
			log := slog.New(slog.DiscardHandler)
			if err := manifests.NewFolder(dir, objs, manifests.FolderOptions{Log: log}).Load(); err != nil {
				t.Fatal(err)
			}
			answers := make(chan struct{})
			a := &Agent{
				cfg: Config{Log: log}, st: st, noOther: make(chan struct{}), gateway: gateway.New(objs, st, gateway.Config{}, log),
				secrets: gatewaysecrets.NewReceiver(gatewaysecrets.ReceiverConfig{
					Objects: objs, State: st, Log: log, Open: func(ctx context.Context) (io.ReadCloser, error) {
						select {
						case <-answers:
							return io.NopCloser(strings.NewReader(`{"complete":true}`)), nil
						case <-ctx.Done():
							return nil, ctx.Err()
						}
					},
				}),
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ran := make(chan error, 1)
			go func() { ran <- a.secrets.Run(ctx) }()
			waited := make(chan bool, 1)
			go func() {
				a.awaitSecrets(ctx)
				select {
				case <-a.secrets.Known():
					waited <- true
				default:
					waited <- false
				}
			}()
			if c.waits {
				close(answers)
			}
			if got := <-waited; got != c.waits || ctx.Err() != nil {
				t.Errorf("it waited until the Secrets were known: %t", got)
			}
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
		})
	}
}
