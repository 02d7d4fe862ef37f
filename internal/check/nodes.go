package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

// Agent is what the agent of a node told, or why it told nothing.
type Agent struct {
	Node   string
	Status api.Status
	Err    error
}

// nodes gives a line for each node that is not as it should be, and one for all others.
func (i *Installed) nodes(r *report) {
	var good []string
	where := map[string][]string{} // the plugin is, by file
	plugin := i.plugin()
	for _, n := range i.Nodes {
		if !n.Linux {
			continue
		}
		before := len(r.out)
		a := i.agent(r, n)
		if a != nil {
			i.health(r, n.Name, a)
			if plugin {
				i.cni(r, n.Name, a)
			}
		}
		if len(r.out) == before {
			good = append(good, n.Name)
			if a.CNI != nil {
				where[a.CNI.File] = append(where[a.CNI.File], n.Name)
			}
		}
	}
	if len(good) == 0 {
		return
	}
	found := "agents ready, eBPF programs attached, Envoy connected"
	if len(where) > 0 {
		found += ", CNI plugin in " + by(where)
	}
	r.ok(some(good), "%s", found)
	if !plugin {
		r.warn("CNI plugin", "chart value cni.enabled", "is not installed: pods join the mesh a moment after they start, strict ones too")
	}
}

// plugin reports whether agents were told to install the CNI plugin.
func (i *Installed) plugin() bool {
	return slices.ContainsFunc(i.Parts, func(p survey.Part) bool {
		return p.Name == "weft-agent" && (slices.Contains(p.Args, "--cni") || slices.Contains(p.Args, "--cni=true"))
	})
}

// agent gives what a node's agent told, or says why it told nothing.
func (i *Installed) agent(r *report, n survey.Node) *api.Status {
	at := slices.IndexFunc(i.Pods, func(p survey.Pod) bool { return p.Component == survey.Agent && p.Node == n.Name && p.Ready })
	if at < 0 {
		if at = slices.IndexFunc(i.Pods, func(p survey.Pod) bool { return p.Component == survey.Agent && p.Node == n.Name }); at < 0 {
			r.fail(n.Name, fmt.Sprintf("see why none is made: kubectl -n %s describe daemonset weft-agent", i.Namespace), "no agent runs on it%s", notReady(n))
			return nil
		}
		pod := i.Pods[at]
		r.fail(n.Name, fmt.Sprintf("kubectl -n %s logs %s; kubectl -n %s describe pod %s", i.Namespace, pod.Name, i.Namespace, pod.Name),
			"agent %s is not ready%s: %s", pod.Name, notReady(n), pod.Why)
		return nil
	}
	for k := range i.Agents {
		a := &i.Agents[k]
		switch {
		case a.Node != n.Name:
		case a.Err != nil:
			r.fail(n.Name, fmt.Sprintf("the kubelet of the node must be reachable, and you need the right to create pods/exec in namespace %s", i.Namespace),
				"the agent cannot be asked: %v", a.Err)
			return nil
		default:
			return &a.Status
		}
	}
	r.fail(n.Name, "run the check again", "the agent was not asked")
	return nil
}

func notReady(n survey.Node) string {
	if n.Ready {
		return ""
	}
	return " (the node is not ready)"
}

// health judges what an agent tells of its node.
func (i *Installed) health(r *report, node string, s *api.Status) {
	see := "weft status --node " + node
	var bad []string
	if !s.Synced {
		bad = append(bad, "it has not read everything yet")
	}
	for _, f := range s.Datapath.Faults() {
		bad = append(bad, "datapath: "+f)
	}
	switch {
	case s.Proxy.State != "LIVE":
		bad = append(bad, strings.TrimSuffix("Envoy is not live: "+s.Proxy.Error, ": "))
	case !s.Proxy.Connected:
		bad = append(bad, "Envoy is not connected to the agent")
	}
	if len(s.Proxy.Overload) > 0 {
		bad = append(bad, "Envoy is in overload: "+strings.Join(s.Proxy.Overload, ", "))
	}
	switch {
	case len(bad) > 0:
		r.fail(node, fmt.Sprintf("%s; kubectl -n %s logs daemonset/weft-agent, daemonset/weft-proxy of that node", see, i.Namespace), "%s", strings.Join(bad, "; "))
	case len(s.Faults) > 0:
		r.fail(node, see, "%s%s", s.Faults[0], more(len(s.Faults)-1))
	}
}

// objects warns of what is wrong with users' objects. Each node tells of it.
func (i *Installed) objects(r *report) {
	var problems, noAddress []string
	add := func(to *[]string, what string) {
		if !slices.Contains(*to, what) {
			*to = append(*to, what)
		}
	}
	for k := range i.Agents {
		s := &i.Agents[k].Status
		for _, t := range s.Troubles {
			add(&problems, t.Object.String())
		}
		for _, g := range s.Gateways {
			if len(g.Addresses) == 0 {
				add(&noAddress, g.Key())
			}
		}
	}
	if len(noAddress) > 0 {
		r.warn("Gateways", "give them one in spec.addresses, or make an AddressPool with addresses that lead to the nodes", "without an address: %s", some(noAddress))
	}
	if len(problems) > 0 {
		r.warn("objects", "weft status lists what is wrong", "with problems: %s", some(problems))
	}
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; and %d more", n)
}

// cni judges whether pods of a node start in the mesh.
func (i *Installed) cni(r *report, node string, s *api.Status) {
	if s.CNI != nil && s.CNI.File != "" && len(s.CNI.Problems) == 0 {
		return
	}
	found := "the CNI plugin is in no network configuration"
	if s.CNI != nil && len(s.CNI.Problems) > 0 {
		found = "CNI plugin: " + strings.Join(s.CNI.Problems, "; ")
	}
	r.fail(node, fmt.Sprintf("see kubectl -n %s logs of its agent; chart values cni.confDir and cni.binDir must be the container runtime's folders", i.Namespace), "%s", found)
}
