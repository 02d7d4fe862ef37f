package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/agent"
	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/controller"
	"github.com/weft-mesh/weft/internal/proxy"
)

// stateDir keeps what outlives the machine's restart, unless --state says otherwise.
const stateDir = "/var/lib/weft"

func newAgentCmd(run *string) *cobra.Command {
	cfg := agent.Config{}
	var level slog.Level
	var addresses, external []string
	var authority, bytes, gatewayNodes string
	var sent sentFlags
	cmd := &cobra.Command{
		Use:   "agent --manifests DIR | --kubeconfig FILE | --in-cluster",
		Short: "Run this node: eBPF programs, xDS, certificates",
		Long: `Run this node from a folder of Kubernetes manifests, which is watched, or from an API server.

When the agent ends, its eBPF programs and Envoy stay: connections go on, and new ones are still balanced and
authenticated. weft cleanup takes everything away.

An agent that starts while another runs with the same --run reads all objects first. Then the running agent ends and
hands its sockets over, so that no client is refused. In a pod (--in-cluster) it waits for its pod's end instead.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.RunDir, cfg.Version = *run, cli.Version(version)
			cfg.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			if err := errors.Join(oneOf("ca", authority, "builtin", "controller"), oneOf("bytes", bytes, "hbone", "tunnel")); err != nil {
				return err
			}
			cfg.CA.Controller, cfg.Tunnel = authority == "controller", bytes == "tunnel"
			if err := sent.set(&cfg); err != nil {
				return err
			}
			if cfg.NodeAddresses, err = nodeAddresses(addresses); err != nil {
				return err
			}
			if cfg.ExternalIPs, err = parseRanges(external); err != nil {
				return err
			}
			if cfg.GatewayNodes, err = controller.ParseNodes(gatewayNodes); err != nil {
				return fmt.Errorf("--gateway-nodes: %w", err)
			}
			if cfg.ConnectionRate > agent.MaxConnectionRate {
				return fmt.Errorf("--connection-rate %d: at most %d is possible", cfg.ConnectionRate, agent.MaxConnectionRate)
			}
			if cfg.InCluster && !cmd.Flags().Changed("health-address") {
				cfg.HealthAddress = "127.0.0.1:15021"
			}
			a, err := agent.New(cfg)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	host, _ := os.Hostname()
	f := cmd.Flags()
	f.StringVar(&cfg.Manifests, "manifests", "", "folder of manifests")
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "read objects from the API server that this file names")
	f.BoolVar(&cfg.InCluster, "in-cluster", false, "read objects from the API server of the cluster that this is a pod of")
	f.StringVar(&cfg.StateDir, "state", stateDir, "folder that keeps certificates: the authority that signs them, or what the controller signed")
	f.StringVar(&cfg.Node, "node", host, "name of this node")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringSliceVar(&addresses, "node-address", nil, "addresses of this node, the first is that of Gateways without another (default: those of its interfaces)")
	externalIPsFlag(f, &external)
	budgetFlags(f, &cfg.NamespaceShare, &cfg.RequestExpressions)
	f.BoolVar(&cfg.Announce, "announce", true, "this node of a cluster may answer for Gateways' addresses on its links")
	gatewayNodesFlag(f, &gatewayNodes)
	f.StringVar(&authority, "ca", "builtin", "who signs workloads' certificates: builtin, this node for itself; or controller, the cluster's weft controller")
	f.StringVar(&cfg.CA.TokenFile, "ca-token", "/var/run/secrets/weft/token", "with --ca controller: file of this agent's ServiceAccount token, of audience weft-ca")
	f.DurationVar(&cfg.SVIDTTL, "svid-ttl", time.Hour, "with --ca builtin: life of a workload's certificate; renewed at half of it")
	pathFlags(f, &cfg)
	observedFlags(f, &cfg)
	sent.traces.flags(f)
	sent.export.flags(f)
	f.StringVar(&bytes, "bytes", "tunnel", "how authenticated bytes go to other pods: tunnel, by weft tunnel to nodes that run it, and by Envoy to others; or hbone, by Envoy to all")
	cniFlags(f, &cfg.CNI)
	proxiesFlags(f, &cfg)
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	cmd.AddCommand(newReadyCmd("agent", "it has taken over, read all objects and attached its programs"))
	cmd.MarkFlagsOneRequired("manifests", "kubeconfig", "in-cluster")
	cmd.MarkFlagsMutuallyExclusive("manifests", "kubeconfig", "in-cluster")
	return cmd
}

// oneOf refuses a flag with another value than the possible ones.
func oneOf(flag, value string, possible ...string) error {
	if slices.Contains(possible, value) {
		return nil
	}
	return fmt.Errorf("--%s %q: %s are possible", flag, value, strings.Join(possible, " and "))
}

// proxiesFlags say what the node's Envoy and weft tunnel take, and whether the agent starts them.
func proxiesFlags(f *pflag.FlagSet, cfg *agent.Config) {
	f.Uint64Var(&cfg.MaxConnections, "max-connections", proxy.DefaultMaxConnections, "those of the node's Envoy, as weft proxy has it: a pod's listener gets a tenth of them, all Gateways together a half")
	f.Uint32Var(&cfg.ConnectionRate, "connection-rate", 0, "connections a second that Envoy and weft tunnel accept of one pod, or from one address outside, at most 1,000,000; past it they are made to wait. 0 is 1,000 for each CPU")
	f.BoolVar(&cfg.StartProxy, "proxy", false, "also keep a weft proxy running, for one machine")
	f.StringSliceVar(&cfg.ProxyArgs, "proxy-args", nil, "flags for that weft proxy")
}

// gatewayNodesFlag is one of the controller and of the agents, which must have the same.
func gatewayNodesFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "gateway-nodes", "", "selector of labels of the nodes that may serve Gateways and so have their certificates' keys (default: all nodes)")
}

// pathFlags say where things are on the node.
func pathFlags(f *pflag.FlagSet, cfg *agent.Config) {
	f.StringVar(&cfg.PinDir, "pins", "", "folder below a bpf file system for what outlives the agent (default /sys/fs/bpf/weft)")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", "", "cgroup2 folder that holds this node's processes, Envoy and pods included (default: the cgroup2 mount)")
	f.StringVar(&cfg.ProxyCgroup, "proxy-cgroup", "", "Envoy's cgroup below the cgroup root (default weft-proxy)")
	f.StringVar(&cfg.NetNSDir, "netns-dir", "/run/netns", "where the container runtime names pods' network namespaces")
}

// observedFlags say how the agent is watched, and what it tells.
func observedFlags(f *pflag.FlagSet, cfg *agent.Config) {
	f.StringVar(&cfg.HealthAddress, "health-address", "", "address and port of /healthz and /readyz (default: none, 127.0.0.1:15021 with --in-cluster)")
	f.StringVar(&cfg.HealthSocket, "health-socket", "", "unix socket for weft agent ready, in a folder that no other pod has")
	f.StringVar(&cfg.MetricsAddress, "metrics-address", agent.DefaultMetricsAddress, "address and port of /metrics and, for Envoy's, /metrics/proxy; empty for none, and then requests are not counted")
	f.BoolVar(&cfg.IstioMetrics, "istio-metrics", false, "requests and connections also as istio_requests_total and the like, for tools that ask for these")
	f.BoolVar(&cfg.NoUDPFlows, "no-udp-flows", false, "no flows of datagrams and of DNS: nothing looks at UDP packets")
	f.BoolVar(&cfg.RequestLog, "request-log", false, "also a flow for each HTTP request on L7 ports and Gateways, with method, path and status")
}

// sentFlags are the flags about what is sent elsewhere.
type sentFlags struct {
	traces traceFlags
	export exportFlags
}

func (s *sentFlags) set(cfg *agent.Config) (err error) {
	if cfg.Traces, err = s.traces.traces(); err != nil {
		return err
	}
	cfg.Export, err = s.export.export()
	return err
}

func cniFlags(f *pflag.FlagSet, cni *agent.CNI) {
	f.BoolVar(&cni.Install, "cni", false, "keep the CNI plugin in this node's network configuration")
	f.StringVar(&cni.ConfDir, "cni-conf-dir", cniConfDir, "the container runtime's folder of network configurations")
	f.StringVar(&cni.BinDir, "cni-bin-dir", cniBinDir, "the container runtime's folder of CNI plugins")
	f.StringVar(&cni.LogFile, "cni-log", "/var/log/weft-cni.log", "the plugin's log")
}

// nodeAddresses parses the addresses given, or else lists those of the interfaces: IPv4 first, no loopback or link-local.
func nodeAddresses(given []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range given {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("--node-address: %w", err)
		}
		out = append(out, a)
	}
	if len(out) > 0 {
		return out, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this node's addresses: %w; name them by --node-address", err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			addr, _ := netip.AddrFromSlice(n.IP)
			out = append(out, addr.Unmap())
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	if len(out) == 0 {
		return nil, fmt.Errorf("this node has no address; name one by --node-address")
	}
	return out, nil
}
