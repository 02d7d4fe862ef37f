package cli

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
)

type object = surveytest.Object

// meshOf gives an API server with nodes, an agent on each of those that have a run directory, and what installs them.
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
			"spec":     object{"nodeName": name}, "status": object{"conditions": []any{object{"type": "Ready", "status": "True"}}},
		})
		s.Agents["weft-system/weft-agent-"+name] = filepath.Join(run, api.SocketName)
	}
	s.Objects["/api/v1/nodes"], s.Objects["/api/v1/namespaces/weft-system/pods"] = all, pods
	s.Objects["/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent"] = object{
		"metadata": surveytest.Meta("weft-system", "weft-agent", object{"app.kubernetes.io/version": "0.1.0"}, nil),
		"spec":     object{"template": object{"spec": object{"containers": []any{object{"image": "weft:0.1.0", "args": []any{"agent", "--cni"}}}}}},
		"status":   object{"desiredNumberScheduled": len(nodes), "updatedNumberScheduled": len(nodes), "numberReady": len(nodes)},
	}
	return writeKubeconfig(t, s.Start(t))
}

func TestCheckInstalled(t *testing.T) {
	good := healthyNode()
	good.cni = &api.CNI{File: "/etc/cni/net.d/10-net.conflist"}
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
