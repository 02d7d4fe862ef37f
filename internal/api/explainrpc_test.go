package api

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

// askedNode is sharedNode with what Services, routes and Gateways lead to in both namespaces.
func askedNode() Node {
	n := sharedNode()
	st := n.State
	w := st.Write(st.Services, st.RouteTables, st.StreamRoutes, st.Divisions, st.Endpoints, st.Workloads, st.Gateways, st.Certified, st.Rejections,
		st.Programmed, st.Accepted, st.Carried, st.BackendTLS)
	defer w.Commit()
	for i, ns := range []string{"shop", "bank"} {
		other := map[string]string{"shop": "bank", "bank": "shop"}[ns]
		id := model.NewIdentity("td", ns, ns+"-sa")
		pod := &model.Workload{
			Namespace: ns, Name: ns + "-pod", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, Identity: id, Local: true,
			NetNS: "/run/netns/worker", Cgroup: "worker.slice", Node: "n1", MTLS: model.MTLSStrict, Policy: &model.Policy{Names: []string{ns + "/" + ns + "-policy"}},
		}
		st.Workloads.Put(w, pod)
		_, revision, _ := st.Workloads.Revision(w.Snapshot(), pod.Key())
		subject := model.Subject{Kind: model.SubjectWorkload, Name: pod.Key()}
		st.Accepted.Put(w, &model.Accepted{Subject: subject, Revision: revision})
		st.Programmed.Put(w, &model.Programmed{Subject: subject, Revision: revision})
		st.Certified.Put(w, &model.Certified{Identity: id, NotAfter: time.Now().AddDate(10, 0, 0)})
		svc, otherSvc := ns+"-svc", other+"-svc"
		st.Services.Put(w, &model.Service{Namespace: ns, Name: svc, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 1)})}, Ports: []model.ServicePort{
			{Port: 80, Protocol: model.TCP, L7: true}, {Port: 81, Protocol: model.TCP}, {Port: 82, Protocol: model.TCP}, {Port: 83, Protocol: model.TCP, L7: true},
		}})
		rows, _ := st.Endpoints.Get(w.Snapshot(), model.PortKey(ns, svc, 80, 0))
		for _, port := range []uint16{80, 81} { // an endpoint of each namespace
			row := *rows
			row.Port, row.Protocol = port, model.TCP
			st.Endpoints.Put(w, &row)
		}
		st.Divisions.Put(w, &model.Division{Service: ns + "/" + svc, Port: 82, Route: ref("TCPRoute", other, other+"-split"), Shares: []model.Share{
			{Backend: model.Backend{Namespace: other, Name: otherSvc, Port: 80, Weight: 3}, Endpoints: rows.Backends[:1]},
		}})
		st.RouteTables.Put(w, &model.RouteTable{Name: model.ServiceTable(ns, svc, 83), VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Route: ref("HTTPRoute", ns, ns+"-own"), Backends: []model.Backend{{Namespace: ns, Name: svc, Port: 80, Weight: 1}, {Namespace: other, Name: otherSvc, Port: 80, Weight: 1}},
		}}}}})
		st.BackendTLS.Put(w, &model.BackendTLS{Namespace: ns, Service: svc, Port: 80, Policy: version("BackendTLSPolicy", ns, ns+"-tls-policy")})
		for _, kind := range []string{"TLSRoute", "TCPRoute"} {
			st.StreamRoutes.Put(w, &model.StreamRoute{Route: ref(kind, ns, ns+"-tls"), Backends: []model.Backend{{Namespace: ns, Name: svc, Port: 80, Weight: 1}}})
		}
		st.Accepted.Put(w, &model.Accepted{Subject: model.Subject{Kind: model.SubjectGateway, Name: ns + "/" + ns + "-gw"}, Error: "bank-error"})
		st.Rejections.Put(w, &model.Rejection{Resource: "Listener/bank-" + ns, Message: "bank-message", Objects: []model.ObjectVersion{
			version("Gateway", ns, ns+"-gw"), {ObjectRef: model.ObjectRef{Kind: "Service", Namespace: ns, Name: svc}}, version("HTTPRoute", other, other+"-route")}})
	}
	return n
}

func mustMarshal(t *testing.T, v any, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// namesOther reports whether a text has a word of bank or of the node beyond what the reader's own objects name.
func namesOther(text string, own ...string) string {
	for _, o := range own {
		text = strings.ReplaceAll(text, o, "")
	}
	for _, word := range []string{"bank", "worker", "SECRET", "10.0.0.2:"} {
		if strings.Contains(text, word) {
			return word
		}
	}
	return ""
}

// TestScopeOfDescribe: of an object of his, a tenant is told nothing of another's objects but what his own name; of another's object
// nothing at all.
func TestScopeOfDescribe(t *testing.T) {
	n := askedNode()
	shop, all := Scope{Namespaces: []string{"shop"}}, Scope{All: true}
	for _, q := range []describe.Question{
		{Kind: describe.KindPod, Name: "shop/shop-pod"}, {Kind: describe.KindService, Name: "shop/shop-svc"},
		{Kind: describe.KindGateway, Name: "shop/shop-gw"}, {Kind: "HTTPRoute", Name: "shop/shop-route"}, {Kind: "TLSRoute", Name: "shop/shop-tls"},
		{Kind: describe.KindRoute, Name: "shop/shop-own"}, {Kind: "TCPRoute", Name: "shop/shop-split"},
	} {
		seen, err := n.answerDescribe(&DescribeQuestion{Question: q, Scope: all})
		whole := mustMarshal(t, seen, err)
		if strings.Contains(whole, "SECRET") {
			t.Errorf("%+v: a secret in %s", q, whole)
		}
		seen, err = n.answerDescribe(&DescribeQuestion{Question: q, Scope: shop})
		text := mustMarshal(t, seen, err)
		// The backend that his own route names, and the address that his own EndpointSlice does.
		own := []string{`"namespace":"bank","name":"bank-svc","port":80,"weight":1`, `"address":"10.0.0.2:80"`, `service/bank/bank-svc/80`, `"bank.example"`, "bank/bank-svc:82"}
		own = append(own, `"service":"bank/bank-svc"`, `"gateway":"bank/bank-gw"`, `"listener":"bank-listener"`) // where his routes are
		if word := namesOther(text, own...); word != "" {
			t.Errorf("%+v names %s: %s\nall: %s", q, word, text, whole)
		}
		if !strings.Contains(text, "shop") {
			t.Errorf("%+v: %s", q, text)
		}
		q.Name = strings.ReplaceAll(q.Name, "shop", "bank")
		if a, err := n.answerDescribe(&DescribeQuestion{Question: q, Scope: shop}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%+v of another: %v, error %v", q, a, err)
		}
	}
	a, err := n.answerDescribe(&DescribeQuestion{Question: describe.Question{Kind: describe.KindService, Name: "shop/shop-svc"}, Scope: shop})
	text := mustMarshal(t, a, err)
	for _, want := range []string{`"losesTo":"a rule of another namespace"`, "Envoy refused what was made of it and of objects of other namespaces", `"hidden":true`} {
		if !strings.Contains(text+mustRoute(t, n, shop), want) {
			t.Errorf("there is no %s in %s", want, text)
		}
	}
}

func mustRoute(t *testing.T, n Node, scope Scope) string {
	t.Helper()
	a, err := n.answerDescribe(&DescribeQuestion{Question: describe.Question{Kind: describe.KindRoute, Name: "shop/shop-own"}, Scope: scope})
	return mustMarshal(t, a, err)
}

// TestScopeOfExplain: of what is another namespace's, an answer says whether it allows the connection and no more.
func TestScopeOfExplain(t *testing.T) {
	n := askedNode()
	shop, all := Scope{Namespaces: []string{"shop"}}, Scope{All: true}
	ask := func(s Scope, from, to string, request *explain.Request) (*explain.Answer, string, error) {
		t.Helper()
		target, err := explain.ParseTarget(to)
		if err != nil {
			t.Fatal(err)
		}
		v, err := n.answerExplain(&ExplainQuestion{Question: explain.Question{From: from, To: target, Request: request}, Scope: s})
		if err != nil {
			return nil, "", err
		}
		text := mustMarshal(t, v, nil)
		a := &explain.Answer{}
		if err := json.Unmarshal([]byte(text), a); err != nil {
			t.Fatal(err)
		}
		return a, text, nil
	}
	for _, c := range []struct {
		to   string
		ends int // that a tenant sees
		why  string
	}{
		{"shop/shop-svc:80", 0, "another"}, // a rule of bank decides
		{"shop/shop-svc:81", 2, ""},        // an endpoint of each; those of others are one
		{"shop/shop-svc:82", 0, "another"}, // a TCPRoute of bank divides
		{"shop/shop-svc:83", 2, ""},        // his own rule, with a backend of each
		{"pod/shop/shop-pod:8080", 1, ""},
		{"gateway/shop/shop-gw:443", 1, ""},
	} {
		whole, wholeText, err := ask(all, "shop/shop-pod", c.to, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, text, err := ask(shop, "shop/shop-pod", c.to, nil)
		if err != nil {
			t.Fatal(err)
		}
		own := `"namespace":"bank","name":"bank-svc","port":80,"weight":1` // that his own rule names
		if word := namesOther(text, own); word != "" {
			t.Errorf("%s names %s: %s\nall: %s", c.to, word, text, wholeText)
		}
		if a.Verdict != whole.Verdict || len(a.Ends) != c.ends || (c.why != "") != (a.Why != "" && a.Route == nil && len(a.Ends) == 0 && strings.Contains(a.Why, "config.weft.io")) {
			t.Errorf("%s: %s\nall: %s", c.to, text, wholeText)
		}
		if hidden := slices.IndexFunc(a.Ends, func(e explain.End) bool { return e.Workload == "" }); hidden >= 0 {
			e := a.Ends[hidden]
			if e.Address.IsValid() || e.Service != "" || e.Way != "" || e.By != "" || e.Client != "" || e.Changes != nil || e.Node != "" {
				t.Errorf("%s: a hidden end says %+v", c.to, e)
			}
		}
	}
	for _, c := range [][2]string{{"shop/shop-pod", "bank/bank-svc:81"}, {"bank/bank-pod", "shop/shop-svc:81"}, {"shop/shop-pod", "bank/none:1"}} {
		if _, text, err := ask(shop, c[0], c[1], nil); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v: %s, error %v", c, text, err)
		}
	}
	if _, _, err := ask(all, "shop/gone", "shop/shop-svc:81", nil); status.Code(err) != codes.NotFound {
		t.Errorf("a pod that there is not: %v", err)
	}
	for _, a := range []explain.Arrival{{From: "bank/bank-pod", To: "shop/shop-pod"}, {From: "shop/shop-pod", To: "bank/bank-pod"}, {To: "shop/shop-pod"}} {
		if got, err := n.answerArrival(&arrivalQuestion{Arrival: a, Scope: shop}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%+v: %v, error %v", a, got, err)
		}
	}
}

// TestBoundedAnswers: a Service with many endpoints has an answer with room for it, of which the verdict is that of all.
func TestBoundedAnswers(t *testing.T) {
	n := askedNode()
	st := n.State
	w := st.Write(st.Endpoints)
	row := &model.Endpoints{Service: "shop/shop-svc", Port: 81, Protocol: model.TCP}
	const many = 20000
	for i := range many {
		row.Backends = append(row.Backends, model.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)})
	}
	row.Backends = append(row.Backends, model.Endpoint{Address: netip.MustParseAddrPort("10.0.0.1:80"), Workload: "shop/shop-pod"})
	st.Endpoints.Put(w, row)
	w.Commit()
	v, err := n.answerExplain(&ExplainQuestion{Question: explain.Question{From: "bank/bank-pod", To: explain.Target{Name: "shop/shop-svc", Port: 81}}, Scope: Scope{All: true}})
	text := mustMarshal(t, v, err)
	var a explain.Answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || len(text) > maxMessage || len(a.Ends) > maxEnds+1 || a.Verdict != explain.Partly {
		t.Errorf("%d bytes, %d ends, %s, error %v", len(text), len(a.Ends), a.Verdict, err)
	}
	v, err = n.answerDescribe(&DescribeQuestion{Question: describe.Question{Kind: describe.KindService, Name: "shop/shop-svc"}, Scope: Scope{All: true}})
	text = mustMarshal(t, v, err)
	var d describe.Description
	if err := json.Unmarshal([]byte(text), &d); err != nil || len(text) > maxMessage || d.More < many-maxRows {
		t.Errorf("%d bytes, %d more, error %v", len(text), d.More, err)
	}
}
