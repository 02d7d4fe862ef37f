package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
)

// meshStatus is the health of a cluster, or of one node, as agents tell it. It is one form, so that a program need not know which
// of them was asked.
type meshStatus struct {
	Healthy bool         `json:"healthy"`
	Host    string       `json:"host,omitempty"`   // the API server or the flows API; "" where this machine's agent was asked
	Nodes   []nodeStatus `json:"nodes"`            // by name
	Unread  string       `json:"unread,omitempty"` // why nodes may be missing
	// Workloads counts pods by mTLS mode.
	Workloads  map[string]int     `json:"workloads"`
	Gateways   []*model.Gateway   `json:"gateways"`
	Rejections []*model.Rejection `json:"rejections,omitempty"`
	Problems   []api.Problem      `json:"problems,omitempty"`
	Objects    int                `json:"objects"`
	Troubles   []api.Trouble      `json:"troubles,omitempty"`
	// Namespaces are those that the status is of, where the reader may not see all: it has no nodes then.
	Namespaces []string       `json:"namespaces,omitempty"`
	Identities []api.Identity `json:"identities,omitempty"` // of these namespaces, with a problem
	// Cut counts the rows for which there was no room in answers.
	Cut int `json:"cut,omitempty"`
}

func newMeshStatus(host string) *meshStatus {
	return &meshStatus{Healthy: true, Host: host, Nodes: []nodeStatus{}, Workloads: map[string]int{}, Gateways: []*model.Gateway{}}
}

// nodeStatus is one node's.
type nodeStatus struct {
	Name    string `json:"name"`
	Agent   string `json:"agent"` // ready, or why it is not, or why it does not answer
	Healthy bool   `json:"healthy"`
	// Status is all that the agent says; nil if it does not answer.
	Status *api.Status `json:"status,omitempty"`
}

func showClusterStatus(ctx context.Context, w io.Writer, f *fleet, out *output) (healthy bool, err error) {
	s := f.status(ctx)
	done, err := out.structured(w, s)
	if err == nil && !done {
		err = printClusterStatus(w, s)
	}
	return s.Healthy, err
}

// status asks all agents.
func (f *fleet) status(ctx context.Context) *meshStatus {
	s := newMeshStatus(f.cluster.Host())
	for i, a := range ask(ctx, f, f.agents, (*api.Client).Status) {
		s.addNode(nodeOf(f.agents[i], a))
		s.add(&a.value)
	}
	s.without(ctx, f)
	s.sort()
	return s
}

// addNode adds a node, without what its agent says of objects.
func (s *meshStatus) addNode(n nodeStatus) {
	s.Nodes, s.Healthy = append(s.Nodes, n), s.Healthy && n.Healthy
}

func (s *meshStatus) sort() {
	slices.SortFunc(s.Nodes, func(a, b nodeStatus) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Gateways, func(a, b *model.Gateway) int { return strings.Compare(a.Key(), b.Key()) })
	slices.SortStableFunc(s.Troubles, func(a, b api.Trouble) int { return strings.Compare(a.Object.String(), b.Object.String()) })
}

// without adds the nodes that have no agent.
func (s *meshStatus) without(ctx context.Context, f *fleet) {
	nodes, err := f.cluster.Nodes(ctx)
	if err != nil {
		s.Healthy, s.Unread = false, "nodes without an agent are not known: "+err.Error()
	}
	for _, n := range nodes {
		if n.Linux && !slices.ContainsFunc(f.agents, func(p survey.Pod) bool { return p.Node == n.Name }) {
			s.addNode(nodeStatus{Name: n.Name, Agent: "none runs on it, see weft check"})
		}
	}
}

func nodeOf(p survey.Pod, a answer[api.Status]) nodeStatus {
	n := nodeStatus{Name: p.Node, Agent: "ready"}
	if !p.Ready {
		n.Agent = "not ready: " + p.Why
	}
	if a.err != nil {
		n.Agent = "does not answer: " + a.err.Error()
		return n
	}
	n.Status, n.Healthy = &a.value, a.value.Healthy && p.Ready
	return n
}

// version is that of the agent; "" if it does not answer.
func (n nodeStatus) version() string {
	if n.Status == nil {
		return ""
	}
	return n.Status.Agent.Version
}

// envoy says how the node's Envoy fares; "" if the agent does not answer.
func (n nodeStatus) envoy() string {
	if n.Status == nil {
		return ""
	}
	p := &n.Status.Proxy
	out := p.State
	switch {
	case out == "":
		out = "none"
	case !p.Connected:
		out += ", not connected"
	}
	if len(p.Overload) > 0 {
		out += ", in overload"
	}
	return out
}

// add takes in what a node tells. What is the cluster's, each node tells.
func (s *meshStatus) add(st *api.Status) {
	for _, w := range st.Workloads {
		s.Workloads[w.MTLS.String()]++
	}
	for _, g := range st.Gateways {
		at := slices.IndexFunc(s.Gateways, func(o *model.Gateway) bool { return o.Key() == g.Key() })
		switch {
		case at < 0:
			s.Gateways = append(s.Gateways, g)
		case len(s.Gateways[at].Addresses) == 0: // a node that knows better
			s.Gateways[at] = g
		}
	}
	for _, r := range st.Rejections {
		if !slices.ContainsFunc(s.Rejections, func(o *model.Rejection) bool { return o.Key() == r.Key() && o.Message == r.Message }) {
			s.Rejections = append(s.Rejections, r)
		}
	}
	if st.Folder != nil {
		for _, p := range st.Folder.Problems {
			if !slices.ContainsFunc(s.Problems, func(o api.Problem) bool { return o.Object == p.Object && o.Reason == p.Reason }) {
				s.Problems = append(s.Problems, p)
			}
		}
	}
	s.Objects = max(s.Objects, st.Objects)
	have := make(map[api.Trouble]bool, len(s.Troubles))
	for _, t := range s.Troubles {
		have[t] = true
	}
	for _, t := range st.Troubles {
		if !have[t] {
			have[t] = true
			s.Troubles = append(s.Troubles, t)
		}
	}
}

func printClusterStatus(w io.Writer, s *meshStatus) error {
	tw := newTabWriter(w)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	well, versions := 0, map[string]bool{}
	for _, n := range s.Nodes {
		if n.Healthy {
			well++
		}
		if v := n.version(); v != "" {
			versions[v] = true
		}
	}
	line("Cluster", "%s", s.Host)
	health := fmt.Sprintf("all %d healthy", well)
	if well < len(s.Nodes) {
		health = fmt.Sprintf("%d of %d NOT HEALTHY", len(s.Nodes)-well, len(s.Nodes))
	}
	if len(versions) > 1 {
		health += fmt.Sprintf(", agents of %d versions", len(versions))
	}
	if s.Namespaces == nil {
		line("Nodes", "%s", health)
	} else {
		line("Namespaces", "%s", join(s.Namespaces, 10, same))
	}
	if s.Cut > 0 {
		line("", "%d rows of nodes are left out: name one by --node", s.Cut)
	}
	if s.Unread != "" {
		line("", "%s", s.Unread)
	}
	line("Workloads", "%d strict, %d permissive, %d disabled", s.Workloads["strict"], s.Workloads["permissive"], s.Workloads["disabled"])
	line("Objects", "%s", objectsLine(s.Objects, s.Troubles))
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, print := range []func() error{
		func() error { return section(w, "Nodes", s.Nodes, nodeColumns) },
		func() error { return section(w, "Identities with problems", s.Identities, identityTroubles) },
		func() error { return section(w, "Gateways", s.Gateways, gatewaySummary) },
		func() error { return section(w, "Not taken as written", s.Problems, problemColumns[1:]) },
		func() error { return section(w, "Objects with problems", s.Troubles, troubleColumns) },
		func() error { return section(w, "Refused by Envoy, or over a limit", s.Rejections, rejectionColumns) },
	} {
		if err := print(); err != nil {
			return err
		}
	}
	printFaults(w, s.Nodes)
	printExports(w, s.Nodes)
	return nil
}

// exports are the targets of the export of flows that do not take them.
func (n nodeStatus) exports() []*model.Export {
	if n.Status == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(n.Status.Exports), func(e *model.Export) bool { return e.Error == "" })
}

// printExports gives a line for each target of the export of flows that fails for a reason, with the nodes where it does.
func printExports(w io.Writer, nodes []nodeStatus) {
	since, where := map[model.Export]time.Time{}, map[model.Export][]string{}
	var order []model.Export
	for _, n := range nodes {
		for _, e := range n.exports() {
			failure := model.Export{To: e.To, Target: e.Target, Error: e.Error}
			if where[failure] == nil {
				order, since[failure] = append(order, failure), e.Since
			}
			where[failure] = append(where[failure], n.Name)
			if e.Since.Before(since[failure]) {
				since[failure] = e.Since
			}
		}
	}
	if len(order) > 0 {
		fmt.Fprintln(w, "\nExports of flows that fail (traffic does not suffer)")
	}
	for _, e := range order {
		line := exportLine(&model.Export{To: e.To, Target: e.Target, Error: e.Error, Since: since[e]})
		fmt.Fprintf(w, "  - %s: %s\n", printable(join(where[e], 3, same)), printable(line))
	}
}

// printFaults gives a line for each fault, with the nodes that have it.
func printFaults(w io.Writer, nodes []nodeStatus) {
	var order []string
	where := map[string][]string{}
	for _, n := range nodes {
		if n.Status == nil {
			continue
		}
		for _, f := range n.Status.Faults {
			if where[f] == nil {
				order = append(order, f)
			}
			where[f] = append(where[f], n.Name)
		}
	}
	if len(order) > 0 {
		fmt.Fprintln(w, "\nFaults of nodes (weft status --node NAME tells more)")
	}
	for _, f := range order {
		fmt.Fprintf(w, "  - %s: %s\n", printable(join(where[f], 3, same)), printable(f))
	}
}

var identityTroubles = []column[api.Identity]{
	{head: "IDENTITY", of: func(i api.Identity) string { return string(i.Identity) }},
	{head: "PROBLEM", of: func(i api.Identity) string { return i.Trouble }},
}

var nodeColumns = []column[nodeStatus]{
	{head: "NAME", of: func(n nodeStatus) string { return n.Name }},
	{head: "HEALTHY", of: func(n nodeStatus) string { return yesNo(n.Healthy) }},
	{head: "VERSION", of: func(n nodeStatus) string { return n.version() }},
	{head: "ENVOY", of: func(n nodeStatus) string { return n.envoy() }},
	{head: "WORKLOADS", of: func(n nodeStatus) string {
		if n.Status == nil {
			return ""
		}
		return fmt.Sprint(len(n.Status.Workloads))
	}},
	{head: "AGENT", of: func(n nodeStatus) string { return n.Agent }},
}
