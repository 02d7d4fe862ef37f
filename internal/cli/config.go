package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/model"
)

// query is what the config commands ask for.
type query struct {
	out       output
	namespace string
	all       bool
}

func newConfigCmd(run *string, now func() time.Time) *cobra.Command {
	r, server := &reach{run: run}, &flowsServer{}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show what a node made of the manifests",
		Long: `Show what this node made of the manifests. Where no agent runs on this machine and a kubeconfig is found, the nodes of
the cluster are asked, or the one that --node names; what several nodes say alike is shown once. With --server the flows API
of the cluster is asked, which shows what is of the namespaces that your token may see.`,
		Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		listCmd(r, server, api.Services, "Services, their addresses and ports", printServices),
		listCmd(r, server, api.Routes, "The rules for requests, in order of precedence: the first that matches wins", printRoutes),
		listCmd(r, server, api.AllEndpoints, "The addresses behind each Service port", printEndpoints),
		listCmd(r, server, api.Identities, "SPIFFE IDs, who has them, and this node's certificates for them",
			func(w io.Writer, list []api.Identity, wide bool) error { return printIdentities(w, list, wide, now()) }),
		listCmd(r, server, api.Certificates, "Certificates that this node holds, without their keys",
			func(w io.Writer, list []api.Certificate, wide bool) error {
				return printCertificates(w, list, wide, now())
			}),
		listCmd(r, server, api.Policies, "Who may speak to the pods that an AuthorizationPolicy selects", printPolicies),
		listCmd(r, server, api.Gateways, "Gateways and their listeners", printGateways),
		listCmd(r, server, api.Statuses, "Conditions of every Gateway, listener, route and policy", printStatuses),
	)
	for _, sub := range cmd.Commands() {
		sub.Aliases = aliases[sub.Name()]
	}
	r.flags(cmd.PersistentFlags())
	server.flags(cmd.PersistentFlags())
	return cmd
}

// aliases are the names that kubectl takes too.
var aliases = map[string][]string{
	api.Services: {"service", "svc"}, api.Routes: {"route"}, api.AllEndpoints: {"endpoint", "ep"},
	api.Identities: {"identity"}, api.Certificates: {"certificate", "cert"}, api.Policies: {"policy"},
	api.Gateways: {"gateway", "gtw"},
}

// listCmd makes weft config <what> [NAME].
func listCmd[T any](r *reach, server *flowsServer, what, short string, table func(io.Writer, []T, bool) error) *cobra.Command {
	var q query
	cmd := &cobra.Command{
		Use:   what + " [NAME]",
		Short: short,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := q.out.check(); err != nil {
				return err
			}
			if q.all && q.namespace != "" {
				return fmt.Errorf("-n and -A exclude each other")
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			lists, err := lists[T](cmd.Context(), r, server, what, q.namespace, name)
			if err != nil {
				return err
			}
			return lists.show(cmd, &q.out, none(what, q.namespace, name), table)
		},
	}
	q.out.flag(cmd, "table", "wide", "json", "yaml")
	cmd.Flags().StringVarP(&q.namespace, "namespace", "n", "", "only of this namespace (default: all)")
	cmd.Flags().BoolVarP(&q.all, "all-namespaces", "A", false, "of all namespaces, which is the default")
	return cmd
}

func none(what, namespace, name string) string {
	s := "No " + what
	if name != "" {
		s += " of " + name
	}
	if namespace != "" {
		s += " in namespace " + namespace
	}
	return s + "."
}

func printServices(w io.Writer, list []model.Service, wide bool) error {
	return printTable(w, list, []column[model.Service]{
		{head: "NAMESPACE", of: func(s model.Service) string { return s.Namespace }},
		{head: "NAME", of: func(s model.Service) string { return s.Name }},
		{head: "ADDRESSES", of: func(s model.Service) string { return join(s.Addresses, 0, stringer) }},
		{head: "PORTS", of: func(s model.Service) string { return join(s.Ports, 0, servicePort) }},
		{head: "AFFINITY", of: func(s model.Service) string {
			if s.Affinity == 0 {
				return ""
			}
			return "client IP, " + age(s.Affinity)
		}},
		{head: "APP-PROTOCOLS", wide: true, of: func(s model.Service) string {
			return join(s.Ports, 0, func(p model.ServicePort) string {
				if p.AppProtocol == "" {
					return "-"
				}
				return p.AppProtocol
			})
		}},
	}, wide)
}

func servicePort(p model.ServicePort) string {
	s := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	if p.Name != "" {
		s = p.Name + ":" + s
	}
	switch {
	case p.Detect:
		s += "(L7 or bytes)"
	case p.L7:
		s += "(L7)"
	}
	return s
}

type endpointRow struct {
	of model.Endpoints
	e  *model.Endpoint // nil where the port has none
}

func printEndpoints(w io.Writer, list []model.Endpoints, wide bool) error {
	var rows []endpointRow
	for _, e := range list {
		for i := range e.Backends {
			rows = append(rows, endpointRow{e, &e.Backends[i]})
		}
		if len(e.Backends) == 0 {
			rows = append(rows, endpointRow{of: e})
		}
	}
	backend := func(f func(*model.Endpoint) string) func(endpointRow) string {
		return func(r endpointRow) string {
			if r.e == nil {
				return ""
			}
			return f(r.e)
		}
	}
	return printTable(w, rows, []column[endpointRow]{
		{head: "SERVICE", of: func(r endpointRow) string { return r.of.Service }},
		{head: "PORT", of: func(r endpointRow) string { return fmt.Sprintf("%d/%s", r.of.Port, r.of.Protocol) }},
		{head: "ADDRESS", of: backend(func(e *model.Endpoint) string { return e.Address.String() })},
		{head: "WORKLOAD", of: backend(func(e *model.Endpoint) string { return e.Workload })},
		{head: "MTLS", of: backend(func(e *model.Endpoint) string { return e.MTLS.String() })},
		{head: "STATE", of: backend(func(e *model.Endpoint) string {
			if e.Terminating {
				return "terminating"
			}
			return "ready"
		})},
		{head: "NODE", wide: true, of: backend(func(e *model.Endpoint) string { return e.Node })},
		{head: "IDENTITY", wide: true, of: backend(func(e *model.Endpoint) string { return string(e.Identity) })},
	}, wide)
}

func printIdentities(w io.Writer, list []api.Identity, wide bool, now time.Time) error {
	return printTable(w, list, []column[api.Identity]{
		{head: "IDENTITY", of: func(i api.Identity) string { return string(i.Identity) }},
		{head: "WORKLOADS", of: func(i api.Identity) string {
			owners := append([]string{}, i.Workloads...)
			for _, g := range i.Gateways {
				owners = append(owners, "Gateway/"+g)
			}
			if wide {
				return join(owners, 0, same)
			}
			return join(owners, 3, same)
		}},
		{head: "LOCAL", of: func(i api.Identity) string { return yesNo(i.Local) }},
		{head: "CERTIFICATE", of: func(i api.Identity) string {
			if i.SVID == nil && !i.Local {
				return "" // it is another node's
			}
			return validity(i.SVID, now)
		}},
		{head: "SERIAL", wide: true, of: func(i api.Identity) string {
			if i.SVID == nil {
				return ""
			}
			return i.SVID.Serial
		}},
	}, wide)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func printCertificates(w io.Writer, list []api.Certificate, wide bool, now time.Time) error {
	return printTable(w, list, []column[api.Certificate]{
		{head: "KIND", of: func(c api.Certificate) string { return c.Kind }},
		{head: "NAME", of: func(c api.Certificate) string { return c.Name }},
		{head: "SERIAL", of: func(c api.Certificate) string { return c.Serial }},
		{head: "NOT BEFORE", of: func(c api.Certificate) string { return stamp(c.NotBefore) }},
		{head: "NOT AFTER", of: func(c api.Certificate) string { return stamp(c.NotAfter) }},
		{head: "STATE", of: func(c api.Certificate) string { return validity(&c, now) }},
		{head: "FOR", wide: true, of: func(c api.Certificate) string { return join(c.Names, 0, same) }},
	}, wide)
}
