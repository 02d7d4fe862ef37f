package cli

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

type object = surveytest.Object

// meshOf gives an API server with nodes, an agent on each of those that have a run directory, and what installs them.
// Beside a third one there is one without an agent.
func meshOf(t *testing.T, nodes map[string]string) (kubeconfig string) {
	t.Helper()
	s := &surveytest.Server{Agents: map[string]string{}, Objects: map[string]any{"/version": object{"gitVersion": "v1.37.2"}}}
	var all, pods []any
	for _, name := range []string{"worker-1", "worker-2", "worker-3"} {
		run, ok := nodes[name]
		if !ok {
			continue
		}
		all = append(all, object{"metadata": surveytest.Meta("", name, nil, nil), "status": object{
			"nodeInfo": object{"operatingSystem": "linux", "kernelVersion": "6.18.1"}, "conditions": []any{object{"type": "Ready", "status": "True"}},
		}})
		pods = append(pods, object{
			"metadata": surveytest.Meta("weft-system", "weft-agent-"+name, object{"app.kubernetes.io/component": "agent"}, nil),
			"spec":     object{"nodeName": name, "containers": []any{object{"name": "agent", "env": []any{object{"name": "PASSWORD", "value": "hunter2"}}}}},
			"status": object{
				"conditions":        []any{object{"type": "Ready", "status": "True"}},
				"containerStatuses": []any{object{"name": "agent", "restartCount": 1}},
			},
		})
		s.Agents["weft-system/weft-agent-"+name] = filepath.Join(run, api.SocketName)
	}
	if _, ok := nodes["worker-3"]; ok {
		all = append(all, object{"metadata": surveytest.Meta("", "worker-4", nil, nil), "status": object{"nodeInfo": object{"operatingSystem": "linux"}}})
	}
	s.Objects["/api/v1/nodes"], s.Objects["/api/v1/namespaces/weft-system/pods"] = all, pods
	s.Objects["/api/v1/namespaces/weft-system/pods/weft-agent-worker-1/log"] = "the agent started"
	s.Objects["/api/v1/namespaces/bank/pods/vault"] = object{"metadata": surveytest.Meta("bank", "vault", nil, nil), "spec": object{"nodeName": "worker-2"}}
	s.Objects["/api/v1/namespaces/bank/pods/waiting"] = object{"metadata": surveytest.Meta("bank", "waiting", nil, nil)}
	s.Objects["/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent"] = object{
		"metadata": surveytest.Meta("weft-system", "weft-agent", object{"app.kubernetes.io/version": "0.1.0"}, nil),
		"spec":     object{"template": object{"spec": object{"containers": []any{object{"image": "weft:0.1.0", "args": []any{"agent", "--cni"}}}}}},
		"status":   object{"desiredNumberScheduled": len(nodes), "updatedNumberScheduled": len(nodes), "numberReady": len(nodes)},
	}
	return writeKubeconfig(t, s.Start(t))
}

func TestCheckInstalled(t *testing.T) {
	good := healthyNode()
	row := good.st.Write(good.st.CNI)
	good.st.CNI.Put(row, &model.CNI{File: "/etc/cni/net.d/10-net.conflist"})
	row.Commit()
	kubeconfig := meshOf(t, map[string]string{"worker-1": serve(t, good), "worker-2": serve(t, sickNode()), "worker-3": "/nowhere"})
	out, err := run(t, "check", "--kubeconfig", kubeconfig)
	if !errors.Is(err, ErrUnhealthy) {
		t.Errorf("error %v", err)
	}
	golden(t, filepath.Join("testdata", "check-installed.txt"), hideHost(out))
	if _, err := run(t, "check"); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("without a cluster: %v", err)
	}
}

// TestCluster asks three nodes, of which one does not answer.
func TestCluster(t *testing.T) {
	second := healthyNode()
	w := second.st.Write(second.st.SVIDs, second.st.Certified)
	second.uncertify(w, model.NewIdentity(trust, "edge", "public"))
	w.Commit()
	nodes := map[string]string{"worker-1": serve(t, healthyNode()), "worker-2": serve(t, second)}
	two := meshOf(t, nodes)
	nodes["worker-3"] = "/nowhere"
	three := meshOf(t, nodes)
	for _, c := range []struct {
		name, kubeconfig, args string
		err                    error
	}{
		{"cluster-status", three, "status", ErrUnhealthy},
		{"cluster-status-json", two, "status -o json", ErrUnhealthy},
		{"cluster-node", two, "status --node worker-1", nil},
		{"cluster-services", two, "config services", nil},
		{"cluster-identities", three, "config identities", ErrUnhealthy},
		{"cluster-services-json", two, "config services -n plain -o json", nil},
		{"cluster-services-node", two, "config services -n plain -o json --node worker-2", nil},
		{"cluster-nothing", two, "config services -n nowhere", nil},
		{"cluster-observe", three, "observe --last 3", ErrUnhealthy},
		{"cluster-observe-json", two, "observe --last 1 -o json", nil},
		{"cluster-envoy-node", two, "proxy-config clusters --node worker-2", nil},
		{"cluster-envoy-pod", two, "proxy-config listeners --pod bank/vault", nil},
		{"cluster-observe-node", three, "observe --last 1 --node worker-1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := run(t, append(strings.Fields(c.args), "--kubeconfig", c.kubeconfig)...)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			golden(t, filepath.Join("testdata", c.name+".txt"), "$ weft "+c.args+"\n"+hideHost(out))
		})
	}
	for _, c := range []struct{ args, want string }{
		{"status --node worker-9", "there are worker-1, worker-2"},
		{"status --mesh-namespace elsewhere", "no agent of Weft in namespace elsewhere"},
		{"status --node worker-1 --kubeconfig=", "--kubeconfig"},
		{"proxy-config clusters", "name one by --node, or a pod of one by --pod"},
		{"proxy-config clusters --pod vault", "not of the form NAMESPACE/NAME"},
		{"proxy-config clusters --pod bank/nobody", "no /api/v1/namespaces/bank/pods/nobody"},
		{"proxy-config clusters --pod bank/waiting", "Pod bank/waiting has no node yet"},
		{"proxy-config clusters --pod bank/vault --node worker-1", "runs on node worker-2, not on worker-1"},
		{"proxy-config log-level loud --node worker-1", "no log level"},
	} {
		if _, err := run(t, append([]string{"--kubeconfig", two}, strings.Fields(c.args)...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not hold %q", c.args, err, c.want)
		}
	}
}

// TestClusterAlike lists policies that only differ in whose the pods are, which the table does not show, and faults that
// both nodes have.
func TestClusterAlike(t *testing.T) {
	second := healthyNode()
	w := second.st.Write(second.st.Workloads)
	for _, key := range []string{"shop/web-1", "plain/old-1"} {
		p, _ := second.st.Workloads.Get(second.st.Snapshot(), key)
		there := *p
		there.Local = false
		second.st.Workloads.Put(w, &there)
	}
	w.Commit()
	kubeconfig := meshOf(t, map[string]string{"worker-1": serve(t, healthyNode()), "worker-2": serve(t, second)})
	for _, args := range []string{"config policies", "config policies -o wide"} {
		out, err := run(t, append(strings.Fields(args), "--kubeconfig", kubeconfig)...)
		if err != nil {
			t.Error(err)
		}
		golden(t, filepath.Join("testdata", "cluster-"+strings.ReplaceAll(strings.TrimPrefix(args, "config "), " -o ", "-")+".txt"), "$ weft "+args+"\n"+out)
	}
	kubeconfig = meshOf(t, map[string]string{"worker-1": serve(t, sickNode()), "worker-2": serve(t, sickNode())})
	out, err := run(t, "status", "--kubeconfig", kubeconfig)
	if !errors.Is(err, ErrUnhealthy) {
		t.Errorf("error %v", err)
	}
	golden(t, filepath.Join("testdata", "cluster-status-sick.txt"), "$ weft status\n"+hideHost(out))
	out, err = run(t, "observe", "--from", "nowhere/", "--kubeconfig", kubeconfig)
	if err != nil || !strings.HasPrefix(out, "No flows") {
		t.Errorf("no flows: %q, %v", out, err)
	}
}

// TestClusterLost: what a node lost is shown before the flow that follows it there. Losses before flows that are not asked for are not.
func TestClusterLost(t *testing.T) {
	first, second := healthyNode(), healthyNode()
	at := time.Date(2040, 1, 1, 12, 0, 0, 0, time.UTC)
	add := func(n *node, lost uint64, name string) {
		at = at.Add(time.Second)
		n.flows.AddLost(lost)
		n.flows.Add(observe.Flow{Time: at, Protocol: model.TCP, Verdict: observe.Failed, Layer: observe.L4, Destination: observe.Peer{Service: "shop/" + name}})
	}
	add(first, 100, "cut")
	add(second, 7, "a")
	add(first, 3, "b")
	add(second, 0, "c")
	second.flows.AddLost(5)
	kubeconfig := meshOf(t, map[string]string{"worker-1": serve(t, first), "worker-2": serve(t, second)})
	for name, args := range map[string]string{"cluster-lost": "observe --last 3", "cluster-lost-json": "observe --last 3 -o json"} {
		out, err := run(t, append(strings.Fields(args), "--kubeconfig", kubeconfig)...)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", name+".txt"), "$ weft "+args+"\n"+out)
	}
}

// TestClusterFollow sees flows of two nodes as they come, and hears when one ends.
func TestClusterFollow(t *testing.T) {
	a, b := healthyNode(), healthyNode()
	kubeconfig := meshOf(t, map[string]string{"worker-1": serve(t, a), "worker-2": serve(t, b)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRoot(Options{}, time.Now)
	out := newLineWriter()
	root.SetOut(out)
	root.SetErr(out)
	root.SetArgs([]string{"observe", "-f", "-o", "json", "--kubeconfig", kubeconfig})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	for node, n := range map[string]*node{"worker-1": a, "worker-2": b} {
		for seen := false; !seen; { // it may not follow yet
			n.flows.Add(observe.Flow{Verdict: observe.Failed, Reason: "by " + node})
			select {
			case l := <-out.lines:
				seen = strings.Contains(l, `"node":"`+node+`"`) && strings.Contains(l, "by "+node)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended by Ctrl-C: %v", err)
	}
}

// hideHost takes the test's port out of a text.
func hideHost(out string) string {
	for {
		before, rest, ok := strings.Cut(out, "http://127.0.0.1:")
		if !ok {
			return out
		}
		out = before + "https://api" + strings.TrimLeft(rest, "0123456789")
	}
}
