package controller

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/hubble/relay"
	"github.com/weft-mesh/weft/internal/kube/access"
)

const (
	// flowsService is the Service of the flows API.
	flowsService = "weft-flows"
	// reviewTimeout bounds a review of a caller of it.
	reviewTimeout = 5 * time.Second
)

// flowsNames are the DNS names that the flows API is reached by.
func flowsNames(namespace string) []string {
	return []string{flowsService, flowsService + "." + namespace, flowsService + "." + namespace + ".svc"}
}

// flows is the flows API of this replica. Every replica serves it, whoever holds the Lease.
type flows struct {
	address string
	// mapAddress is that of the service map's page, "" for none.
	mapAddress string
	nodes      *relay.Nodes
	server     *relay.Server
	log        *slog.Logger
}

func newFlows(cfg Config, known tables) (*flows, error) {
	own := rest.CopyConfig(cfg.Kube)
	own.QPS = -1 // the reviewer bounds what it asks, and must not wait behind the controller's writes
	own.Timeout = reviewTimeout
	tokens, err := authenticationv1client.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("flows API: client of the API server: %w", err)
	}
	rights, err := authorizationv1client.NewForConfig(own)
	if err != nil {
		return nil, fmt.Errorf("flows API: client of the API server: %w", err)
	}
	nodes := relay.NewNodes(known.agentNodes, cfg.Log)
	reviewer := access.NewReviewer(tokens.TokenReviews(), rights.SubjectAccessReviews(), known.namespaces)
	return &flows{
		address: cfg.FlowsAddress, mapAddress: cfg.MapAddress, nodes: nodes, log: cfg.Log,
		server: relay.NewServer(relay.Config{
			Nodes: nodes, Version: cfg.Version, Log: cfg.Log,
			Access: reviewer, ConfigAccess: reviewer.For(access.Config),
		}),
	}, nil
}

// run serves until ctx ends, once the objects are read and the CA has a certificate.
func (f *flows) run(ctx context.Context, ready <-chan struct{}, config *tls.Config) error {
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		l, err := net.Listen("tcp", f.address)
		if err != nil {
			return fmt.Errorf("flows API: %w", err)
		}
		f.log.Info("the flows API is served", "address", l.Addr().String())
		return f.server.Serve(ctx, l, config)
	})
	if f.mapAddress != "" {
		g.Go(func() error {
			l, err := net.Listen("tcp", f.mapAddress)
			if err != nil {
				return fmt.Errorf("service map: %w", err)
			}
			f.log.Info("the service map is served", "address", l.Addr().String())
			return f.server.ServeMap(ctx, l, config)
		})
	}
	return g.Wait()
}
