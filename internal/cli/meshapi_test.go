package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
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
				if want := by(n, args); got != want || err != nil {
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
	for _, word := range []string{"n1", "gone", "hook", "edge"} {
		if strings.Contains(got, word) {
			t.Errorf("status as shop names %s:\n%s", word, got)
		}
	}
	var s clusterStatus
	got, _, _ = run("shop", "status -o json")
	if err := json.Unmarshal([]byte(got), &s); err != nil || len(s.Namespaces) != 1 || len(s.Nodes) != 0 || s.Workloads[model.MTLSStrict.String()] == 0 {
		t.Errorf("error %v: %s", err, got)
	}
	if _, _, err := run("nobody", "status"); err == nil || !strings.Contains(err.Error(), "Unauthenticated: the token is not one") {
		t.Errorf("an unknown token: %v", err)
	}
	if _, _, err := run("admin", "config routes --node nowhere"); err == nil || !strings.Contains(err.Error(), "node nowhere has no agent") {
		t.Errorf("an unknown node: %v", err)
	}
}
