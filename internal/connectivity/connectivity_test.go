package connectivity

import (
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/load"
)

// report is of 10 requests; statuses and backends as given.
func report(statuses map[int]int, backends map[string]int) *load.Report {
	r := &load.Report{Requests: 10, Statuses: statuses, Backends: backends, Errors: map[string]int{}}
	for s, n := range statuses {
		if s < 200 || s > 299 {
			r.Failed += n
		}
	}
	return r
}

func TestJudge(t *testing.T) {
	both := answeredBy("a", "b")
	for name, c := range map[string]struct {
		want Want
		got  *load.Report
		err  string
	}{
		"both":                       {both, report(map[int]int{200: 10}, map[string]int{"a": 4, "b": 6}), ""},
		"one of two":                 {both, report(map[int]int{200: 10}, map[string]int{"a": 10}), "b answered none"},
		"another":                    {answeredBy("a"), report(map[int]int{200: 10}, map[string]int{"a": 9, "c": 1}), `"c" answered`},
		"some fail":                  {both, report(map[int]int{200: 9, 503: 1}, map[string]int{"a": 4, "b": 5}), "1 of 10 requests failed; 1: status 503"},
		"no answer":                  {both, report(map[int]int{0: 10}, nil), "10 of 10 requests failed"},
		"refused":                    {Want{Refused: true}, report(map[int]int{0: 10}, nil), ""},
		"answered though to refuse":  {Want{Refused: true}, report(map[int]int{0: 9, 200: 1}, map[string]int{"a": 1}), "1 of 10 requests were answered ([a])"},
		"403 where no answer may be": {Want{Refused: true}, report(map[int]int{403: 10}, nil), "10 of 10 requests were answered"},
		"403":                        {Want{Status: 403}, report(map[int]int{403: 10}, nil), ""},
		"403 mostly":                 {Want{Status: 403}, report(map[int]int{403: 9, 200: 1}, map[string]int{"a": 1}), "not all 403"},
		"nothing was sent":           {both, &load.Report{}, "no request"},
	} {
		err := judge(c.want, c.got)
		if got := errText(err); c.err == "" && err != nil || !strings.Contains(got, c.err) {
			t.Errorf("%s: %q, want %q", name, got, c.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestObjects: all documents are of kinds with a path, and each pod and Service is there once.
func TestObjects(t *testing.T) {
	inv := newInventory("registry.example/weft:v1", "weft", [2]string{"n1", "n2"})
	all, err := inv.objects()
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, o := range all {
		kind := strings.Split(strings.TrimPrefix(o.Path, "/api/v1/namespaces/"), "/")
		count[kind[min(1, len(kind)-1)]]++
		if strings.Contains(string(o.JSON), "<no value>") {
			t.Errorf("%s: %s", o.Path, o.JSON)
		}
	}
	if count["pods"] != len(inv.Pods) || count["services"] != len(inv.Services) || count["serviceaccounts"] != len(inv.Pods) {
		t.Errorf("%v of %d pods and %d Services", count, len(inv.Pods), len(inv.Services))
	}
}

// TestRefusalsHaveAControl: where a case wants a refusal, another one has the same server answer.
func TestRefusalsHaveAControl(t *testing.T) {
	to := &target{pods: map[string]string{}, gateway: "192.0.2.1"}
	inv := newInventory("image", "weft", [2]string{"n1", "n2"})
	for _, p := range inv.Pods {
		to.pods[p.Namespace+"/"+p.Name] = p.Namespace + "." + p.Name
	}
	to.pods["service/"+Plain+"/echo"] = "echo"
	answered := map[string]bool{}
	all := cases(to)
	for _, c := range all {
		if strings.Contains(c.URL, "//:") {
			t.Errorf("%s: no address in %s", c.Name, c.URL)
		}
		for _, b := range c.Want.Backends {
			answered[b] = true
		}
	}
	for server, of := range map[string]string{"server-2": "no identity to strict", "guarded": "another service account", "reading": "another request"} {
		if !answered[server] {
			t.Errorf("no case has %s answer, and %q wants a refusal there", server, of)
		}
	}
}

func TestInURL(t *testing.T) {
	for address, want := range map[string]string{"192.0.2.1": "192.0.2.1", "fd00::1": "[fd00::1]", "gw.example": "gw.example"} {
		if got := inURL(address); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}
