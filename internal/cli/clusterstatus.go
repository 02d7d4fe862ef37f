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

// clusterStatus is a cluster's health as its agents tell it.
type clusterStatus struct {
	Healthy bool         `json:"healthy"`
	Host    string       `json:"host"`
	Nodes   []nodeStatus `json:"nodes"`
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

// nodeStatus is one node's.
type nodeStatus struct {
	Name      string   `json:"name"`
	Agent     string   `json:"agent"` // ready, or why it is not, or why it does not answer
	Version   string   `json:"version,omitempty"`
	Envoy     string   `json:"envoy,omitempty"`
	Healthy   bool     `json:"healthy"`
	Workloads int      `json:"workloads"`
	Faults    []string `json:"faults,omitempty"`
	// Exports are the targets of the export of flows that do not take them.
	Exports []*model.Export `json:"exports,omitempty"`
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
func (f *fleet) status(ctx context.Context) *clusterStatus {
	s := &clusterStatus{Healthy: true, Host: f.cluster.Host(), Workloads: map[string]int{}, Gateways: []*model.Gateway{}}
	for i, a := range ask(ctx, f, f.agents, (*api.Client).Status) {
		n := nodeOf(f.agents[i], a)
		s.Nodes = append(s.Nodes, n)
		s.Healthy = s.Healthy && n.Healthy
		s.add(&a.value)
	}
	s.without(ctx, f)
	s.sort()
	return s
}

func (s *clusterStatus) sort() {
	slices.SortFunc(s.Gateways, func(a, b *model.Gateway) int { return strings.Compare(a.Key(), b.Key()) })
	slices.SortStableFunc(s.Troubles, func(a, b api.Trouble) int { return strings.Compare(a.Object.String(), b.Object.String()) })
}

// without adds the nodes that have no agent.
func (s *clusterStatus) without(ctx context.Context, f *fleet) {
	nodes, err := f.cluster.Nodes(ctx)
	if err != nil {
		s.Healthy, s.Unread = false, "nodes without an agent are not known: "+err.Error()
	}
	for _, n := range nodes {
		if n.Linux && !slices.ContainsFunc(f.agents, func(p survey.Pod) bool { return p.Node == n.Name }) {
			s.Nodes, s.Healthy = append(s.Nodes, nodeStatus{Name: n.Name, Agent: "none runs on it, see weft check"}), false
		}
	}
	slices.SortFunc(s.Nodes, func(a, b nodeStatus) int { return strings.Compare(a.Name, b.Name) })
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
	st := &a.value
	n.Version, n.Healthy, n.Workloads, n.Faults = st.Agent.Version, st.Healthy && p.Ready, len(st.Workloads), st.Faults
	switch n.Envoy = st.Proxy.State; {
	case n.Envoy == "":
		n.Envoy = "none"
	case !st.Proxy.Connected:
		n.Envoy += ", not connected"
	}
	for _, e := range st.Exports {
		if e.Error != "" {
			n.Exports = append(n.Exports, e)
		}
	}
	if len(st.Proxy.Overload) > 0 {
		n.Envoy += ", in overload"
	}
	return n
}

// add takes in what a node tells. What is the cluster's, each node tells.
func (s *clusterStatus) add(st *api.Status) {
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

func printClusterStatus(w io.Writer, s *clusterStatus) error {
	tw := newTabWriter(w)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	well, versions := 0, map[string]bool{}
	for _, n := range s.Nodes {
		if n.Healthy {
			well++
		}
		if n.Version != "" {
			versions[n.Version] = true
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
		func() error { return section(w, "Refused by Envoy", s.Rejections, rejectionColumns) },
	} {
		if err := print(); err != nil {
			return err
		}
	}
	printFaults(w, s.Nodes)
	printExports(w, s.Nodes)
	return nil
}

// printExports gives a line for each target of the export of flows that fails for a reason, with the nodes where it does.
func printExports(w io.Writer, nodes []nodeStatus) {
	since, where := map[model.Export]time.Time{}, map[model.Export][]string{}
	var order []model.Export
	for _, n := range nodes {
		for _, e := range n.Exports {
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
		for _, f := range n.Faults {
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
	{head: "VERSION", of: func(n nodeStatus) string { return n.Version }},
	{head: "ENVOY", of: func(n nodeStatus) string { return n.Envoy }},
	{head: "WORKLOADS", of: func(n nodeStatus) string { return fmt.Sprint(n.Workloads) }},
	{head: "AGENT", of: func(n nodeStatus) string { return n.Agent }},
}
