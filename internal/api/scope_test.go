package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// In the rows of these tests, what is of the tenant shop has "shop" in its name, what is of another has "bank", what is the node's
// "worker", and what is secret "SECRET".

func ref(kind, namespace, name string) model.ObjectRef {
	return model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: kind, Namespace: namespace, Name: name}
}

func version(kind, namespace, name string) model.ObjectVersion {
	return model.ObjectVersion{ObjectRef: ref(kind, namespace, name)}
}

// sharedNode is a node with rows of both tenants, that point to each other wherever rows can.
func sharedNode() Node {
	db := state.NewDB()
	st := state.New(db)
	n := Node{State: st, Objects: kube.NewObjects(db), Dir: "https://worker-api", Loaded: make(chan struct{}), Agent: Agent{Node: "worker", Version: "worker-v1"}}
	w := st.Write(st.Services, st.RouteTables, st.Endpoints, st.Workloads, st.SVIDs, st.Bundles, st.Certificates, st.Gateways,
		st.Statuses, st.Rejections, st.Certified, st.Programmed, st.Lost, n.Objects.Problems)
	defer w.Commit()
	rule := func(ns string) model.Rule {
		return model.Rule{Route: ref("HTTPRoute", ns, ns+"-route"), Backends: []model.Backend{{Namespace: ns, Name: ns + "-svc"}}}
	}
	both := func(name string) *model.RouteTable {
		return &model.RouteTable{Name: name, ListenerSets: model.ListenerSets{Sets: []model.ObjectVersion{version("ListenerSet", "bank", "bank-set"), version("ListenerSet", "shop", "shop-set")}},
			VirtualHosts: []model.VirtualHost{
				{Hosts: []string{"*"}, Rules: []model.Rule{rule("bank"), rule("shop"), {CallerNamespace: "bank", Status: 404}, {Status: 404}}},
				{Hosts: []string{"bank.example"}, Rules: []model.Rule{rule("bank")}},
			}}
	}
	st.RouteTables.Put(w, both("service/shop/shop-svc/80"))
	st.RouteTables.Put(w, &model.RouteTable{Name: "service/bank/bank-svc/80", VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{rule("bank")}}}})
	st.RouteTables.Put(w, both("gateway/infra/edge/80"))
	for _, ns := range []string{"shop", "bank"} {
		other := map[string]string{"shop": "bank", "bank": "shop"}[ns]
		id := model.NewIdentity("td", ns, ns+"-sa")
		st.Services.Put(w, &model.Service{Namespace: ns, Name: ns + "-svc"})
		st.Endpoints.Put(w, &model.Endpoints{Service: ns + "/" + ns + "-svc", Port: 80, Backends: []model.Endpoint{
			{Address: netip.MustParseAddrPort("10.0.0.1:80"), Workload: ns + "/" + ns + "-pod", Identity: id},
			{Address: netip.MustParseAddrPort("10.0.0.2:80"), Workload: other + "/" + other + "-pod", Owner: model.Owner{Kind: "Deployment", Name: other + "-app"},
				Identity: model.NewIdentity("td", other, other+"-sa"), Node: other + "-node", NotGranted: true},
		}})
		st.Workloads.Put(w, &model.Workload{Namespace: ns, Name: ns + "-pod", Identity: id, Local: true, Policy: &model.Policy{Names: []string{ns + "/" + ns + "-policy"}}})
		st.SVIDs.Put(w, &model.SVID{Identity: id, Serial: ns + "-serial", KeyPEM: []byte("SECRET")})
		st.Certificates.Put(w, &model.Certificate{Namespace: ns, Name: ns + "-tls", KeyPEM: []byte("SECRET")})
		st.Gateways.Put(w, &model.Gateway{Namespace: ns, Name: ns + "-gw", Identity: id, Ports: []model.GatewayPort{{
			Port: 443, ListenerSets: model.ListenerSets{Sets: []model.ObjectVersion{version("ListenerSet", other, other+"-set")}},
			Listeners: []model.GatewayListener{
				{Name: ns + "-listener", Streams: []model.GatewayStream{{Route: ref("TLSRoute", ns, ns+"-tls")}, {Hostname: other + ".example", Route: ref("TLSRoute", other, other+"-tls")}}},
				{Name: other + "/" + other + "-set/one", Hostname: other + ".example", Certificates: []string{other + "/" + other + "-tls"}},
			},
		}}})
		st.Statuses.Put(w, &model.Status{Object: ref("HTTPRoute", ns, ns+"-route"), Conditions: []model.Condition{{Type: "Accepted", Reason: ns + "-reason"}}})
		st.Rejections.Put(w, &model.Rejection{Resource: "RouteConfiguration/" + ns, Objects: []model.ObjectVersion{version("HTTPRoute", ns, ns+"-route")}})
		n.Objects.Problems.Put(w, &kube.Problem{File: "worker-file-" + ns, Object: ref("HTTPRoute", ns, ns+"-route"), Reason: ns + "-problem"})
	}
	st.Rejections.Put(w, &model.Rejection{Resource: "Listener/both-of-bank", Objects: []model.ObjectVersion{version("Gateway", "shop", "shop-gw"), version("HTTPRoute", "bank", "bank-route")}})
	st.Rejections.Put(w, &model.Rejection{Resource: "Listener/worker"})
	st.Bundles.Put(w, &model.Bundle{TrustDomain: "worker-td"})
	st.Statuses.Put(w, &model.Status{Object: model.ObjectRef{Kind: "GatewayClass", Name: "worker-class"}, Conditions: []model.Condition{{Type: "Accepted", Reason: "worker"}}})
	st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: model.SubjectHook, Name: "worker-hook"}, Error: "worker-error"})
	st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: model.SubjectService, Name: "bank/bank-svc"}, Error: "bank-error"})
	st.Lost.Put(w, &model.Lost{Source: "worker-ring", Count: 1})
	return n
}

// TestScope: a tenant sees rows of his own namespace in each list and in the status, and in no row a word of another's or of the
// node. Who may see all sees all, and nobody sees a secret.
func TestScope(t *testing.T) {
	n := sharedNode()
	questions := []string{AskStatus}
	for what := range listers {
		questions = append(questions, what)
	}
	slices.Sort(questions)
	for _, what := range questions {
		text := func(s Scope) string {
			t.Helper()
			a, err := n.answer(&Question{What: what, Scope: s})
			if err != nil || a.More != 0 {
				t.Fatalf("%s: %+v, error %v", what, a, err)
			}
			if strings.Contains(string(a.Value), "SECRET") {
				t.Errorf("%s has a secret", what)
			}
			return string(a.Value)
		}
		all := text(Scope{All: true})
		for _, word := range []string{"bank", "shop"} {
			if !strings.Contains(all, word) {
				t.Errorf("%s of all: there is no %s", what, word)
			}
		}
		shop := text(Scope{Namespaces: []string{"shop"}})
		if !strings.Contains(shop, "shop") {
			t.Errorf("%s of shop is %s", what, shop)
		}
		for _, word := range []string{"bank", "worker"} {
			if strings.Contains(shop, word) {
				t.Errorf("%s of shop names %s: %s", what, word, shop)
			}
		}
		for _, none := range []Scope{{}, {Namespaces: []string{""}}, {Namespaces: []string{"other"}}} {
			got := text(none)
			for _, word := range []string{"bank", "worker", "shop"} {
				if strings.Contains(got, word) {
					t.Errorf("%s of %+v names %s: %s", what, none, word, got)
				}
			}
		}
	}
}

// TestScopeOfStatus: what a tenant's status says.
func TestScopeOfStatus(t *testing.T) {
	n := sharedNode()
	a, err := n.answer(&Question{What: AskStatus, Scope: Scope{Namespaces: []string{"shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	var s Status
	if err := json.Unmarshal(a.Value, &s); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(len(s.Workloads), len(s.Identities), len(s.Gateways), len(s.Rejections), len(s.Troubles), len(s.Folder.Problems), s.Objects, s.Healthy, len(s.Faults))
	if want := "1 1 1 1 1 1 1 false 0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if whole := NewStatus(n, time.Now()); len(whole.Rejections) != 4 || len(whole.Datapath.Hooks) != 1 {
		t.Errorf("the whole status: %+v", whole)
	}
}

// TestScopeOfRoutes: of a table, a tenant has the rules of his routes; of his own table also those of no route.
func TestScopeOfRoutes(t *testing.T) {
	n := sharedNode()
	a, err := n.answer(&Question{What: Routes, Scope: Scope{Namespaces: []string{"shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	var tables []model.RouteTable
	if err := json.Unmarshal(a.Value, &tables); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, table := range tables {
		for _, h := range table.VirtualHosts {
			got[strings.Split(table.Name, "/")[1]] += len(h.Rules)
		}
	}
	if fmt.Sprint(got) != "map[infra:1 shop:2]" {
		t.Errorf("rules by the namespace of the table: %v", got)
	}
}

// TestAnswersAreBounded: an answer has room in a message, and says what is left out.
func TestAnswersAreBounded(t *testing.T) {
	n := sharedNode()
	st := n.State
	w := st.Write(st.Statuses, st.Services)
	long := strings.Repeat("x", 2000)
	const many = 3000
	for i := range many {
		name := fmt.Sprint(long, i)
		st.Statuses.Put(w, &model.Status{Object: ref("HTTPRoute", "shop", name), Conditions: []model.Condition{{Type: "Accepted", Reason: "r", Message: long}}})
		st.Services.Put(w, &model.Service{Namespace: "shop", Name: name})
	}
	w.Commit()
	a, err := n.answer(&Question{What: Services, Scope: Scope{All: true}})
	if err != nil {
		t.Fatal(err)
	}
	var list []model.Service
	if err := json.Unmarshal(a.Value, &list); err != nil || len(a.Value) > maxMessage || len(list)+a.More != many+2 || len(list) == 0 {
		t.Errorf("%d bytes, %d items and %d more, error %v", len(a.Value), len(list), a.More, err)
	}
	if a, err = n.answer(&Question{What: AskStatus, Scope: Scope{All: true}}); err != nil {
		t.Fatal(err)
	}
	var s Status
	if err := json.Unmarshal(a.Value, &s); err != nil || len(a.Value) > maxMessage || len(s.Troubles)+a.More < many || len(s.Troubles) == 0 {
		t.Errorf("%d bytes, %d troubles and %d more, error %v", len(a.Value), len(s.Troubles), a.More, err)
	}
}
