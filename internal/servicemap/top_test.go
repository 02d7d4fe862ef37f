package servicemap

import (
	"fmt"
	"strings"
	"testing"
)

func TestTop(t *testing.T) {
	fast, slow := 0.01, 0.5
	node := func(ns, name string) Node {
		e := End{Namespace: ns, Kind: "Deployment", Name: name}
		return Node{ID: e.id(), End: e}
	}
	web, db, other, outside := node("shop", "web"), node("shop", "db"), node("bank", "vault"), Node{ID: "//", End: End{}}
	g := &Graph{
		Nodes: []Node{web, db, other, outside},
		Edges: []Edge{
			{From: outside.ID, To: web.ID, Requests: 10, Errors: 1, P99: &fast, RefusedRequests: 0.5},
			{From: other.ID, To: web.ID, Requests: 5, P99: &slow, Refused: 2},
			{From: web.ID, To: db.ID, Connections: 3, Sent: 100, Received: 1000},
			{From: db.ID, To: web.ID}, // idle
			{From: web.ID, To: other.ID, Requests: 20, P99: &fast},
			{From: web.ID, To: outside.ID, Requests: 100},
		},
	}
	top := func(namespace, by string) string {
		t.Helper()
		all, err := Top(g, namespace, by)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, l := range all {
			p99 := 0.0
			if l.P99 != nil {
				p99 = *l.P99
			}
			out = append(out, fmt.Sprint(l.String(), " ", l.Callers, " ", l.Requests, " ", l.Errors, " ", p99, " ", l.Connections, " ", l.Refused, " ", l.Bytes))
		}
		return strings.Join(out, "; ")
	}
	const ofWeb, ofDB, ofVault = "shop/web 2 15 1 0.5 0 2.5 0", "shop/db 1 0 0 0 3 0 1100", "bank/vault 1 20 0 0.01 0 0 0"
	for _, c := range []struct{ namespace, by, want string }{
		{"", "requests", ofVault + "; " + ofWeb + "; " + ofDB}, {"", "errors", ofWeb + "; " + ofVault + "; " + ofDB},
		{"", "p99", ofWeb + "; " + ofVault + "; " + ofDB}, {"", "bytes", ofDB + "; " + ofVault + "; " + ofWeb},
		{"shop", "connections", ofDB + "; " + ofWeb}, {"none", "refused", ""},
	} {
		if got := top(c.namespace, c.by); got != c.want {
			t.Errorf("%s by %s: %s, want %s", c.namespace, c.by, got, c.want)
		}
	}
	// Of another's workload a reader sees a part of the traffic only, and so no sum.
	g = g.For(func(ns string) bool { return ns == "shop" })
	g.Namespaces = []string{"shop"}
	if got := top("", "requests"); got != ofWeb+"; "+ofDB {
		t.Errorf("of shop: %s", got)
	}
	if _, err := Top(g, "", "name"); err == nil || !strings.Contains(err.Error(), "bytes, connections, errors") {
		t.Errorf("an unknown order: %v", err)
	}
}
