package main

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/controller"
	"github.com/weft-mesh/weft/internal/kube/cluster"
)

func newControllerCmd() *cobra.Command {
	var cfg controller.Config
	var level slog.Level
	var kubeconfig, health string
	var external []string
	var gatewayNodes string
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the cluster's controller: statuses of Gateways, routes and policies, and the CA",
		Long: `Run the cluster's controller, which writes the status of GatewayClasses, Gateways, routes, policies and address pools.
Several may run; the one that holds the Lease writes. With --ca-address each is the cluster's certificate authority, whose
roots are in the Secret weft-ca.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			if cfg.ExternalIPs, err = parseRanges(external); err != nil {
				return err
			}
			if cfg.GatewayNodes, err = controller.ParseNodes(gatewayNodes); err != nil {
				return fmt.Errorf("--gateway-nodes: %w", err)
			}
			if cfg.Kube, err = cluster.Config(kubeconfig); err != nil {
				return err
			}
			cfg.Kube.UserAgent = "weft-controller"
			cfg.Version = cli.Version(version)
			c, err := controller.New(cfg)
			if err != nil {
				return err
			}
			if health != "" {
				stop, err := serveReady(health, c.Ready())
				if err != nil {
					return err
				}
				defer stop()
			}
			return c.Run(cmd.Context())
		},
	}
	host, _ := os.Hostname()
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "file that names the API server (default: that of the cluster that this is a pod of)")
	f.StringVar(&cfg.Namespace, "namespace", "weft-system", "namespace of the Lease")
	f.StringVar(&cfg.Lease, "lease", "weft-controller", "name of the Lease")
	f.StringVar(&cfg.Identity, "identity", host, "name of this replica")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain, as given to weft agent")
	externalIPsFlag(f, &external)
	budgetFlags(f, &cfg.NamespaceShare, &cfg.RequestExpressions)
	gatewayNodesFlag(f, &gatewayNodes)
	f.BoolVar(&cfg.Defaults, "create-gateway-class", true, "create the GatewayClass weft, and where its kind is installed the XMesh weft, if they are missing")
	f.StringVar(&cfg.CAAddress, "ca-address", "", "address and port where agents have certificates signed (default: none, no CA)")
	f.StringVar(&cfg.FlowsAddress, "flows-address", "", "address and port of the flows API, Hubble's Observer and Peer by gRPC (default: none); needs --ca-address")
	f.StringVar(&cfg.MapAddress, "map-address", "", "address and port of the service map's page, by HTTPS (default: none); needs --flows-address")
	f.DurationVar(&cfg.SVIDTTL, "svid-ttl", time.Hour, "life of a workload's certificate; renewed at half of it")
	f.IntVar(&cfg.Writes, "writes", 100, "the most status writes in a second")
	f.StringVar(&health, "health-address", "", "address and port of /healthz and /readyz (default: none)")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}
