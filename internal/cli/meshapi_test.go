package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// TestRowsByFlowsAPI asks the flows API as users with tokens: who may see all finds what agents would have said, others what is of
// their namespace.
func TestRowsByFlowsAPI(t *testing.T) {
	well, sick := healthyNode(), sickNode()
	address, root := flowsAPI(t, map[string]*observe.Store{"n1": well.flows, "n2": sick.flows}, map[string]*node{"n1": well, "n2": sick})
	tokens := t.TempDir()
	run := func(token, args string) (string, string, error) {
		t.Helper()
		file := filepath.Join(tokens, token)
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := newRoot(Options{}, func() time.Time { return fixedNow })
		var out, errs bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errs)
		cmd.SetArgs(append(strings.Fields(args), "--server", address, "--server-ca", root, "--token-file", file))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), errs.String(), err
	}
	until := time.Now().Add(20 * time.Second)
	for { // a connection is known a moment after it is made
		if _, errs, _ := run("admin", "config services"); errs == "gone does not answer: its agent is not connected\n" || time.Now().After(until) {
			break
		}
	}
	by := func(n *node, args string) string { // what the agent itself says
		t.Helper()
		cmd := newRoot(Options{}, func() time.Time { return fixedNow })
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append(strings.Fields(args), "--run", serve(t, n)))
		_ = cmd.ExecuteContext(t.Context())
		return out.String()
	}
	for _, what := range []string{"services", "routes", "endpoints", "identities", "certificates", "policies", "gateways", "status"} {
		for _, format := range []string{"wide", "json"} {
			args := "config " + what + " -o " + format
			for name, n := range map[string]*node{"n1": well, "n2": sick} {
				got, errs, err := run("admin", args+" --node "+name)
				want := strings.Replace(by(n, args), `"worker-1"`, strconv.Quote(name), 1) // the node's own name for itself
				if got != want || err != nil {
					t.Errorf("%s: error %v %s\n%s\nwant\n%s", args, err, errs, got, want)
				}
			}
			// Not in any form is there a word of what is not of the namespace.
			got, errs, err := run("shop", args)
			if err == nil || errs == "" || !strings.Contains(errs, "gone does not answer") { // gone makes the exit status 1
				t.Errorf("%s as shop: error %v, %s", args, err, errs)
			}
			for _, word := range []string{"edge/", "/ns/edge", "plain/"} {
				if strings.Contains(got, word) {
					t.Errorf("%s as shop names %s:\n%s", args, word, got)
				}
			}
		}
	}
	got, _, err := run("admin", "status --node n1")
	if want := by(well, "status"); err != nil || got != strings.ReplaceAll(want, "worker-1", "n1") {
		t.Errorf("status of a node: error %v\n%s\nwant\n%s", err, got, want)
	}
	got, _, err = run("admin", "status")
	for _, want := range []string{"3 NOT HEALTHY", "n1     yes", "gone   no", "does not answer: its agent is not connected", "hook connect4"} {
		if err == nil || !strings.Contains(got, want) {
			t.Errorf("status: error %v, there is no %q:\n%s", err, want, got)
		}
	}
	got, _, err = run("shop", "status")
	for _, want := range []string{"Namespaces", "shop", "1 of 3 nodes do not answer", "unknown field", "Identities with problems\nIDENTITY"} {
		if err == nil || !strings.Contains(got, want) {
			t.Errorf("status as shop: error %v, there is no %q:\n%s", err, want, got)
		}
	}
	for _, word := range []string{"n1", "gone", "hook", "edge", "flows.json"} {
		if strings.Contains(got, word) {
			t.Errorf("status as shop names %s:\n%s", word, got)
		}
	}
	got, _, _ = run("admin", "status")
	if want := "Exports of flows that fail (traffic does not suffer)\n  - n2: flows to file /var/log/flows.json, FAILING since"; !strings.Contains(got, want) {
		t.Errorf("status: there is no %q:\n%s", want, got)
	}
	var s meshStatus
	got, _, _ = run("admin", "status -o json")
	if err := decode(got, &s); err != nil || len(s.Nodes) != 3 || s.Nodes[1].Status == nil {
		t.Errorf("error %v: %s", err, got)
	}
	s = meshStatus{}
	got, _, _ = run("shop", "status -o json")
	if err := decode(got, &s); err != nil || !strings.Contains(got, `"nodes": []`) || len(s.Namespaces) != 1 || len(s.Nodes) != 0 || s.Workloads[model.MTLSStrict.String()] == 0 {
		t.Errorf("error %v: %s", err, got)
	}
	askedAbout(t, run, func(args string) string { return by(well, args) })
	if _, _, err := run("nobody", "status"); err == nil || !strings.Contains(err.Error(), "Unauthenticated: the token is not one") {
		t.Errorf("an unknown token: %v", err)
	}
	if _, _, err := run("admin", "config routes --node nowhere"); err == nil || !strings.Contains(err.Error(), "node nowhere has no agent") {
		t.Errorf("an unknown node: %v", err)
	}
}

// askedAbout asks about objects and connections: who may see the namespaces that a question is of has the answer of the agents, who
// may not has an error that says which right it takes.
func askedAbout(t *testing.T, run func(token, args string) (string, string, error), by func(args string) string) {
	t.Helper()
	for _, args := range []string{"describe pod shop/web-1", "describe service shop/web", "describe route shop/canary", "explain --from shop/app-1 --to shop/web:80", "explain --from shop/app-1 --to shop/web:80 -o json"} {
		want := by(args)
		got, errs, err := run("admin", args+" --node n1")
		if (err != nil && !errors.Is(err, ErrUnhealthy)) || hideFlows(got) != hideFlows(want) {
			t.Errorf("%s: error %v %s\n%s\nwant\n%s", args, err, errs, got, want)
		}
		got, errs, err = run("shop", args)
		if err != nil && !errors.Is(err, ErrUnhealthy) || got == "" {
			t.Errorf("%s as shop: error %v %s\n%s", args, err, errs, got)
		}
		for _, word := range []string{"edge/", "plain/"} {
			if strings.Contains(got, word) {
				t.Errorf("%s as shop names %s:\n%s", args, word, got)
			}
		}
	}
	got, _, err := run("admin", "describe service shop/web")
	if err != nil || !strings.Contains(got, "node gone does not tell: its agent is not connected") {
		t.Errorf("error %v: %s", err, got)
	}
	for _, args := range []string{"describe pod plain/old-1", "describe service plain/db", "explain --from shop/app-1 --to plain/db:5432", "explain --from plain/old-1 --to shop/web:80"} {
		if got, _, err := run("admin", args); err != nil && !errors.Is(err, ErrUnhealthy) {
			t.Errorf("%s: error %v: %s", args, err, got)
		}
		const want = `may not list config.weft.io in namespace "plain", and the answer is for those who may; see the ClusterRole weft-viewer`
		if got, _, err := run("shop", args); err == nil || !strings.Contains(err.Error(), want) || got != "" {
			t.Errorf("%s as shop: error %v: %s", args, err, got)
		}
	}
	for args, want := range map[string]string{
		"describe pod shop/gone": "NotFound: Pod shop/gone is not known", "explain --from shop/gone --to shop/web:80": "NotFound: Pod shop/gone",
		"explain --from shop/app-1 --to pod/shop/web-1": "InvalidArgument: Pod shop/web-1: name a port", "describe pod shop/web-1 --node gone": "node gone: its agent is not connected",
		"describe pod shop/web-1 --node nowhere": "node nowhere has no agent",
	} {
		if got, _, err := run("admin", args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v: %s", args, err, got)
		}
	}
}

// hideFlows leaves out the connections that failed, which another test compares, and how the API names a flow's node.
func hideFlows(text string) string {
	head, rest, found := strings.Cut(text, "\nLast connections")
	if !found {
		return text
	}
	_, tail, _ := strings.Cut(rest, "\n\n")
	return head + "\n" + tail
}
