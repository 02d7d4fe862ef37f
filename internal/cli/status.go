package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
)

func newStatusCmd(run *string, now func() time.Time) *cobra.Command {
	var out output
	r := reach{run: run}
	var server flowsServer
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the health of this node, or of a cluster",
		Long: `Show the health of this node: the agent, Envoy, the kernel, the manifests, workloads and certificates. Where no agent
runs on this machine and a kubeconfig is found, show that of the cluster: each node's agent is asked in its pod, which
takes the right to create pods/exec in the mesh's namespace; with --node one node's, in full. With --server the flows API of
the cluster is asked in their place: who may see all namespaces sees the same, others what is of their namespaces.

The exit status is 1 if something is wrong.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			healthy, err := showStatus(cmd.Context(), cmd.OutOrStdout(), &r, &server, &out, now())
			if err == nil && !healthy {
				return ErrUnhealthy
			}
			return err
		},
	}
	out.flag(cmd, "table", "json", "yaml")
	r.flags(cmd.Flags())
	server.flags(cmd.Flags())
	return cmd
}

// showStatus prints the status of a node or of a cluster, and reports whether it is healthy.
func showStatus(ctx context.Context, w io.Writer, r *reach, server *flowsServer, out *output, now time.Time) (healthy bool, err error) {
	if server.address != "" {
		return server.showStatus(ctx, w, r, out, now)
	}
	client, host := r.local(), ""
	if client == nil {
		f, err := r.open(ctx)
		if err != nil {
			return false, err
		}
		if r.node == "" {
			return showClusterStatus(ctx, w, f, out)
		}
		client, host = f.client(f.agents[0]), f.cluster.Host()
	}
	s, err := client.Status(ctx)
	if err != nil {
		return false, err
	}
	return showNodeStatus(w, host, s.Agent.Node, &s, out, now)
}

// showNodeStatus prints the status of a node. Programs get the form that a cluster's has, with one node.
func showNodeStatus(w io.Writer, host, node string, s *api.Status, out *output, now time.Time) (healthy bool, err error) {
	c := newMeshStatus(host)
	c.addNode(nodeOf(survey.Pod{Node: node, Ready: true}, answer[api.Status]{node: node, value: *s}))
	c.add(s)
	c.sort()
	done, err := out.structured(w, c)
	if err == nil && !done {
		err = printStatus(w, s, now)
	}
	return c.Healthy, err
}

func printStatus(w io.Writer, s *api.Status, now time.Time) error {
	tw := newTabWriter(w)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	health := "healthy"
	if !s.Healthy {
		health = fmt.Sprintf("NOT HEALTHY, see the faults below (%d)", len(s.Faults))
	}
	line("Node", "%s, %s", s.Agent.Node, health)
	line("Agent", "pid %d, up %s, version %s, trust domain %s", s.Agent.PID, age(now.Sub(s.Agent.Started)), s.Agent.Version, s.Agent.TrustDomain)
	line("Proxy", "%s", proxyLine(s.Proxy, now))
	if u := s.Proxy.Unanswered; u != nil {
		line("Unanswered", "%d requests failed with 503 (flag SI) between %s and %s, because no agent answered Envoy", u.Requests, u.From.UTC().Format(time.RFC3339), u.To.UTC().Format(time.RFC3339))
	}
	line("Datapath", "%s", datapathLine(s.Datapath))
	if s.Folder != nil {
		line("Source", "%s: %d objects in force, %d problems", s.Folder.Dir, s.Folder.Objects, len(s.Folder.Problems))
	}
	line("Objects", "%s", objectsLine(s.Objects, s.Troubles))
	line("Flows", "%s", lostLine(s.Lost))
	for _, e := range s.Exports {
		line("Export", "%s", exportLine(e))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	sections := []func() error{
		func() error { return section(w, "Workloads of this node", s.Workloads, workloadColumns) },
		func() error { return section(w, "Identities of this node", localOnly(s.Identities), svidColumns(now)) },
		func() error { return section(w, "Gateways", s.Gateways, gatewaySummary) },
		func() error { return section(w, "BPF maps", s.Datapath.Maps, mapColumns) },
		func() error {
			if s.Folder == nil {
				return nil
			}
			return section(w, "Not taken as written", s.Folder.Problems, problemColumns)
		},
		func() error { return section(w, "Objects with problems", s.Troubles, troubleColumns) },
		func() error { return section(w, "Refused by Envoy, or over a limit", s.Rejections, rejectionColumns) },
	}
	for _, print := range sections {
		if err := print(); err != nil {
			return err
		}
	}
	if len(s.Faults) > 0 {
		fmt.Fprintln(w, "\nFaults of this node")
		for _, f := range s.Faults {
			fmt.Fprintln(w, "  -", printable(f))
		}
	}
	return nil
}

// section prints a heading and a table, or nothing where there are no rows.
func section[T any](w io.Writer, title string, rows []T, columns []column[T]) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\n"+title)
	return printTable(w, rows, columns, false)
}

func proxyLine(p api.Proxy, now time.Time) string {
	if p.State == "" {
		if p.Error != "" {
			return "does not answer: " + p.Error
		}
		return "does not answer"
	}
	s := fmt.Sprintf("%s, Envoy %s, pid %d, epoch %d, restarts %d", p.State, p.Version, p.PID, p.Epoch, p.Restarts)
	if p.Overloads > 0 {
		s += fmt.Sprintf(" (%d for overload)", p.Overloads)
	}
	if !p.Started.IsZero() {
		s += ", up " + age(now.Sub(p.Started))
	}
	if !p.Connected {
		s += ", NOT CONNECTED to the agent"
	}
	if len(p.Overload) > 0 {
		s += ", IN OVERLOAD: " + strings.Join(p.Overload, ", ")
	}
	if p.Error != "" {
		s += ", last error: " + p.Error
	}
	return s
}

func lostLine(lost []*model.Lost) string {
	var out []string
	for _, l := range lost {
		switch {
		case l.Count > 0 && l.Source == model.LostConnections:
			out = append(out, fmt.Sprintf("%d packets of %s dropped", l.Count, l.Source))
		case l.Count > 0 && l.Source == model.LostCopies:
			out = append(out, fmt.Sprintf("%d copies of %s dropped", l.Count, l.Source))
		case l.Count > 0:
			out = append(out, fmt.Sprintf("%d events lost by %s", l.Count, l.Source))
		}
	}
	if len(out) == 0 {
		return "none lost"
	}
	return strings.Join(out, ", ")
}

func exportLine(e *model.Export) string {
	s := "flows to " + e.To
	if e.Target != "" {
		s += " " + e.Target
	}
	if e.Error != "" {
		s += fmt.Sprintf(", FAILING since %s: %s", e.Since.UTC().Format(time.RFC3339), e.Error)
	}
	return s
}

func datapathLine(d api.Datapath) string {
	wrong, repairs, entries := 0, uint64(0), 0
	for _, h := range d.Hooks {
		repairs += h.Repairs
		if h.Error != "" {
			wrong++
		}
	}
	for _, m := range d.Maps {
		entries += m.Entries
	}
	s := fmt.Sprintf("%d hooks attached", len(d.Hooks)-wrong)
	if wrong > 0 {
		s += fmt.Sprintf(", %d WRONG", wrong)
	}
	if repairs > 0 {
		s += fmt.Sprintf(", %d repairs", repairs)
	}
	s += fmt.Sprintf(", %d map entries", entries)
	if n := len(d.Failures); n > 0 {
		s += fmt.Sprintf(", %d objects NOT PROGRAMMED", n)
	}
	return s
}

// objectsLine counts objects of which something does not work; a route that is not accepted by a parent is one of them.
func objectsLine(objects int, all []api.Trouble) string {
	bad, routes := map[model.ObjectRef]bool{}, map[model.ObjectRef]bool{}
	for _, t := range all {
		bad[t.Object] = true
		if t.Type == model.ConditionAccepted && strings.HasSuffix(t.Object.Kind, "Route") {
			routes[t.Object] = true
		}
	}
	s := fmt.Sprintf("%d with a status, %d of them with problems", objects, len(bad))
	if len(routes) > 0 {
		s += fmt.Sprintf(", %d routes not accepted", len(routes))
	}
	return s
}

func localOnly(all []api.Identity) []api.Identity {
	var out []api.Identity
	for _, i := range all {
		if i.Local {
			out = append(out, i)
		}
	}
	return out
}

var workloadColumns = []column[api.Workload]{
	{head: "NAMESPACE", of: func(w api.Workload) string { return w.Namespace }},
	{head: "NAME", of: func(w api.Workload) string { return w.Name }},
	{head: "ADDRESSES", of: func(w api.Workload) string { return join(w.Addresses, 0, stringer) }},
	{head: "MTLS", of: func(w api.Workload) string { return w.MTLS.String() }},
	{head: "POLICIES", of: func(w api.Workload) string { return join(w.Policies, 3, same) }},
}

func svidColumns(now time.Time) []column[api.Identity] {
	return []column[api.Identity]{
		{head: "IDENTITY", of: func(i api.Identity) string { return string(i.Identity) }},
		{head: "CERTIFICATE", of: func(i api.Identity) string { return validity(i.SVID, now) }},
	}
}

// validity says how a certificate stands.
func validity(c *api.Certificate, now time.Time) string {
	switch {
	case c == nil:
		return "none"
	case c.Error != "":
		return "unreadable: " + c.Error
	case !now.Before(c.NotAfter):
		return "ENDED " + age(now.Sub(c.NotAfter)) + " ago"
	case now.Before(c.NotBefore):
		return "begins in " + age(c.NotBefore.Sub(now))
	}
	return "ends in " + age(c.NotAfter.Sub(now))
}

var gatewaySummary = []column[*model.Gateway]{
	{head: "NAMESPACE", of: func(g *model.Gateway) string { return g.Namespace }},
	{head: "NAME", of: func(g *model.Gateway) string { return g.Name }},
	{head: "ADDRESSES", of: func(g *model.Gateway) string { return join(g.Addresses, 0, stringer) }},
	{head: "PORTS", of: func(g *model.Gateway) string {
		return join(g.Ports, 0, func(p model.GatewayPort) string {
			return fmt.Sprintf("%d/%s", p.Port, join(protocols(p), 0, same))
		})
	}},
}

var mapColumns = []column[api.Map]{
	{head: "MAP", of: func(m api.Map) string { return m.Name }},
	{head: "ENTRIES", of: func(m api.Map) string { return fmt.Sprint(m.Entries) }},
	{head: "OF", of: func(m api.Map) string { return fmt.Sprint(m.Max) }},
}

var problemColumns = []column[api.Problem]{
	{head: "WHERE", of: func(p api.Problem) string { return place(p.File, p.Line) }},
	{head: "OBJECT", of: func(p api.Problem) string {
		if p.Object.Kind == "" {
			return ""
		}
		return p.Object.String()
	}},
	{head: "REASON", of: func(p api.Problem) string { return p.Reason }},
}

var troubleColumns = []column[api.Trouble]{
	{head: "OBJECT", of: func(t api.Trouble) string { return t.Object.String() }},
	{head: "FOR", of: func(t api.Trouble) string { return cmp.Or(t.For, "itself") }},
	{head: "CONDITION", of: func(t api.Trouble) string { return t.Type }},
	{head: "REASON", of: func(t api.Trouble) string { return t.Reason }},
	{head: "MESSAGE", of: func(t api.Trouble) string { return t.Message }},
}

var rejectionColumns = []column[*model.Rejection]{
	{head: "RESOURCE", of: func(r *model.Rejection) string { return r.Resource }},
	{head: "FROM", of: func(r *model.Rejection) string { return join(r.Objects, 3, model.ObjectVersion.String) }},
	{head: "REASON", of: func(r *model.Rejection) string { return r.Message }},
}
