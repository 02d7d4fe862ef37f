package cli

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// twoNodes gives nodes that know the same pods: a client on worker-1, and a server on worker-2 with a policy that only its
// own node knows already.
func twoNodes(t *testing.T) (client, server string) {
	var runs []string
	for _, local := range []string{"client", "server"} {
		n := healthyNode()
		w := n.st.Write(n.st.Workloads, n.st.Accepted, n.st.Programmed, n.st.Certified)
		for i, name := range []string{"client", "server"} {
			pod := &model.Workload{
				Namespace: "pair", Name: name, Addresses: addr([]string{"10.0.1.1", "10.0.2.1"}[i]), Node: []string{"worker-1", "worker-2"}[i],
				MTLS: model.MTLSStrict, Identity: model.NewIdentity(trust, "pair", name), Local: name == local,
			}
			if name == "server" && local == "server" {
				pod.Policy = &model.Policy{Names: []string{"pair/closed"}}
			}
			n.st.Workloads.Put(w, pod)
			n.st.Certified.Put(w, &model.Certified{Identity: pod.Identity, NotAfter: fixedNow.AddDate(70, 0, 0)})
			_, revision, _ := n.st.Workloads.Revision(w.Snapshot(), pod.Key())
			subject := model.Subject{Kind: model.SubjectWorkload, Name: pod.Key()}
			n.st.Accepted.Put(w, &model.Accepted{Subject: subject, Revision: revision})
			n.st.Programmed.Put(w, &model.Programmed{Subject: subject, Revision: revision})
		}
		w.Commit()
		runs = append(runs, serve(t, n))
	}
	return runs[0], runs[1]
}

// TestExplainAsksBothNodes: the source's node says by which way, the destination's what it decides.
func TestExplainAsksBothNodes(t *testing.T) {
	client, server := twoNodes(t)
	const question = "explain --from pair/client --to pair/server:8080"
	for name, c := range map[string]struct {
		nodes map[string]string
		err   error
	}{
		"explain-both-nodes": {map[string]string{"worker-1": client, "worker-2": server}, ErrUnhealthy},
		"explain-one-node":   {map[string]string{"worker-1": client, "worker-2": "/nowhere"}, nil},
		// The first node that is asked is not the source's.
		"explain-other-node-first": {map[string]string{"worker-1": server, "worker-2": client}, ErrUnhealthy},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, append(strings.Fields(question), "--kubeconfig", meshOf(t, c.nodes))...)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v: %s", err, c.err, out)
			}
			golden(t, filepath.Join("testdata", name+".txt"), "$ weft "+question+"\n"+out)
		})
	}
}

func TestExplainRefusesBadQuestions(t *testing.T) {
	node := serve(t, healthyNode())
	for args, want := range map[string]string{
		"--from web --to shop/web":                   "NAMESPACE/POD",
		"--from shop/app-1 --to web":                 "NAMESPACE/NAME",
		"--from shop/app-1 --to shop/web:http":       "not a port",
		"--from shop/app-1 --to shop/web --header a": "NAME=VALUE",
		"--from shop/app-1 --to shop/web --path a":   "slash",
		"--from shop/gone --to shop/web":             "Pod shop/gone is not known to the node",
		"--from shop/app-1 --to shop/gone:80":        "shop/gone is not known to the node",
		"--from shop/app-1 --to pod/shop/web-1":      "name a port",
		"--from shop/app-1":                          `"to" not set`,
		"--from shop/app-1 --to shop/web -o wide":    "-o wide",
	} {
		if _, err := run(t, append(strings.Fields("explain "+args), "--run", node)...); err == nil || errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %s", args, err, want)
		}
	}
}
