package hubble

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pods returns a state with the pods shop/app-1 and store/web-1.
func pods() *state.State {
	st := state.New(state.NewDB())
	w := st.Write(st.Workloads)
	st.Workloads.Put(w, &model.Workload{
		Namespace: "shop", Name: "app-1", Labels: map[string]string{"app": "app", "example.com/tier": "front"},
		Owner: model.Owner{Kind: "Deployment", Name: "app"},
	})
	st.Workloads.Put(w, &model.Workload{Namespace: "store", Name: "web-1", Labels: map[string]string{"app": "web"}})
	w.Commit()
	return st
}

// answered is a request that was answered 404, over mutual TLS.
func answered() *observe.Flow {
	return &observe.Flow{
		Seq: 7, Time: time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC), Protocol: model.TCP, Layer: observe.L7, Verdict: observe.Forwarded,
		Source:      observe.Peer{Address: netip.MustParseAddrPort("10.0.1.9:40000"), Workload: "shop/app-1", Identity: "spiffe://t/ns/shop/sa/app"},
		Destination: observe.Peer{Address: netip.MustParseAddrPort("[::ffff:10.0.2.5]:8080"), Workload: "store/web-1", Service: "store/web", Identity: "spiffe://t/ns/store/sa/web"},
		SeenAt:      observe.AtSource, Sent: 10, Received: 20, Duration: 12 * time.Millisecond,
		HTTP: &observe.Request{Method: "GET", Host: "web.store:8080", Path: "/api/v1", Status: 404},
	}
}

func denied() *observe.Flow {
	f := answered()
	f.HTTP, f.Layer, f.Verdict, f.SeenAt = nil, observe.MTLS, observe.Refused, observe.AtDestination
	f.Reason, f.Policies = "no policy allows it", []string{"store/vault"}
	return f
}

func mapped(t *testing.T, f *observe.Flow) *flowpb.Flow {
	t.Helper()
	st := pods()
	m := newMapper("node-1", "v1", st)
	return m.flow(st.Snapshot(), f)
}

func TestFilters(t *testing.T) {
	l7, drop := mapped(t, answered()), mapped(t, denied())
	for _, c := range []struct {
		filter     string // a FlowFilter as JSON
		ofL7, drop bool
	}{
		{`{}`, true, true},
		{`{"source_pod":["shop/"]}`, true, true},
		{`{"source_pod":["shop/app"]}`, true, true},
		{`{"source_pod":["/app"]}`, true, true},
		{`{"source_pod":["app"]}`, false, false}, // in the namespace default
		{`{"source_pod":["sho/"]}`, false, false},
		{`{"destination_pod":["shop/","store/we"]}`, true, true},
		{`{"destination_pod":["store/"],"verdict":["DROPPED"]}`, false, true},
		{`{"destination_service":["store/web"]}`, true, true},
		{`{"source_service":["store/web"]}`, false, false},
		{`{"source_label":["app=app"]}`, true, true},
		{`{"source_label":["k8s:app=app"]}`, true, true},
		{`{"source_label":["any:app in (app, other), example.com/tier"]}`, true, true},
		{`{"source_label":["reserved:app=app"]}`, false, false},
		{`{"source_label":["!app"]}`, false, false},
		{`{"source_label":["k8s:io.kubernetes.pod.namespace=shop"]}`, true, true},
		{`{"destination_label":["app=app"]}`, false, false},
		{`{"source_workload":[{"kind":"Deployment","name":"app"}]}`, true, true},
		{`{"source_workload":[{"name":"app"}]}`, true, true},
		{`{"source_workload":[{"kind":"DaemonSet"}]}`, false, false},
		{`{"destination_workload":[{"name":"web"}]}`, false, false},
		{`{"source_identity":[2,1463548028],"destination_identity":[466924736]}`, true, true},
		{`{"source_identity":[466924736]}`, false, false},
		{`{"source_ip":["10.0.1.9"]}`, true, true},
		{`{"source_ip":["::ffff:10.0.1.9"]}`, true, true},
		{`{"destination_ip":["10.0.2.0/24"]}`, true, true},
		{`{"destination_ip":["10.0.3.0/24","fd00::/8"]}`, false, false},
		{`{"ip_version":["IPv4"]}`, true, true},
		{`{"ip_version":["IPv6"]}`, false, false},
		{`{"destination_port":["8080"]}`, true, true},
		{`{"source_port":["8080"]}`, false, false},
		{`{"protocol":["tcp"]}`, true, true},
		{`{"protocol":["http"]}`, true, false},
		{`{"protocol":["UDP"]}`, false, false},
		{`{"encrypted":[true]}`, true, true},
		{`{"encrypted":[false]}`, false, false},
		{`{"reply":[false]}`, true, true},
		{`{"reply":[true]}`, false, false},
		{`{"traffic_direction":["EGRESS"]}`, true, false},
		{`{"traffic_direction":["INGRESS"]}`, false, true},
		{`{"event_type":[{"type":129}]}`, true, false},
		{`{"event_type":[{"type":1,"match_sub_type":true,"sub_type":133}]}`, false, true},
		{`{"event_type":[{"type":1,"match_sub_type":true}]}`, false, false},
		{`{"drop_reason_desc":["POLICY_DENIED"]}`, false, true},
		{`{"http_status_code":["404"]}`, true, false},
		{`{"http_status_code":["5+","40+"]}`, true, false},
		{`{"http_status_code":["4+"]}`, true, false},
		{`{"http_status_code":["5+"]}`, false, false},
		{`{"http_method":["get"]}`, true, false},
		{`{"http_method":["POST"]}`, false, false},
		{`{"http_path":["^/api/v[0-9]$"]}`, true, false},
		{`{"http_path":["web"]}`, false, false},
		{`{"http_url":["web\\.store"]}`, true, false},
		{`{"node_name":["node-1"]}`, true, true},
		{`{"node_name":["default/NODE-*"]}`, true, true},
		{`{"node_name":["default/"]}`, true, true},
		{`{"node_name":["node-","other/*"]}`, false, false},
		{`{"uuid":["` + l7.Uuid + `"]}`, true, false},
	} {
		in := &flowpb.FlowFilter{}
		if err := protojson.Unmarshal([]byte(c.filter), in); err != nil {
			t.Fatalf("%s: %v", c.filter, err)
		}
		for _, black := range []bool{false, true} {
			lists := [2][]*flowpb.FlowFilter{}
			lists[map[bool]int{false: 0, true: 1}[black]] = []*flowpb.FlowFilter{in}
			f, err := NewFilter(lists[0], lists[1])
			if err != nil {
				t.Fatalf("%s: %v", c.filter, err)
			}
			if got := f.Match(l7); got != (c.ofL7 != black) {
				t.Errorf("%s, blacklist %v: takes the request: %v", c.filter, black, got)
			}
			if got := f.Match(drop); got != (c.drop != black) {
				t.Errorf("%s, blacklist %v: takes the refusal: %v", c.filter, black, got)
			}
		}
	}
}

// TestUnderstoodOrRefused: each field of a FlowFilter either is known to the test above or is an error that names it.
func TestUnderstoodOrRefused(t *testing.T) {
	for in, want := range map[string]string{
		`{"source_fqdn":["a"]}`: "source_fqdn", `{"destination_fqdn":["a"]}`: "destination_fqdn", `{"source_ip_xlated":["10.0.0.1"]}`: "source_ip_xlated",
		`{"source_cluster_name":["a"]}`: "source_cluster_name", `{"destination_cluster_name":["a"]}`: "destination_cluster_name",
		`{"interface":[{"name":"eth0"}]}`: "interface", `{"dns_query":["("]}`: "dns_query",
		`{"http_header":[{"key":"a"}]}`: "http_header", `{"tcp_flags":[{"SYN":true}]}`: "tcp_flags",
		`{"node_labels":["a"]}`: "node_labels", `{"trace_id":["a"]}`: "trace_id", `{"ip_trace_id":[1]}`: "ip_trace_id",
		`{"experimental":{"cel_expression":["true"]}}`: "experimental",

		`{"source_ip":["10.0.0.0/33"]}`: "source_ip", `{"source_ip":["x"]}`: "source_ip", `{"destination_ip":[""]}`: "destination_ip",
		`{"source_pod":[""]}`: "source_pod", `{"source_pod":["a/b/c"]}`: "source_pod", `{"source_label":["a=b=c"]}`: "source_label",
		`{"source_label":["a in (b"]}`: "source_label", `{"destination_port":["65536"]}`: "destination_port", `{"source_port":["http"]}`: "source_port",
		`{"protocol":["sctp"]}`: "protocol", `{"protocol":["x"]}`: "protocol", `{"http_status_code":["600"]}`: "http_status_code",
		`{"http_status_code":["5xx"]}`: "http_status_code", `{"http_path":["("]}`: "http_path", `{"http_url":["a{2000}"]}`: "http_url",
		`{"http_path":["` + strings.Repeat("a", maxExpression+1) + `"]}`: "http_path", `{"node_name":["a/b/c"]}`: "node_name", `{"node_name":[""]}`: "node_name",
		`{"uuid":["` + strings.Repeat("a", maxValue+1) + `"]}`: "uuid",
	} {
		f := &flowpb.FlowFilter{}
		if err := protojson.Unmarshal([]byte(in), f); err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if _, err := NewFilter([]*flowpb.FlowFilter{f}, nil); err == nil || !strings.HasPrefix(err.Error(), "whitelist: "+want+": ") {
			t.Errorf("%s: error %v does not name %q", in, err, want)
		}
	}
	later := &flowpb.FlowFilter{}
	later.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 1}) // field 1023
	if _, err := NewFilter(nil, []*flowpb.FlowFilter{later}); err == nil {
		t.Error("a field that is not known is passed over")
	}
}

func TestFilterBounds(t *testing.T) {
	many := slices.Repeat([]*flowpb.FlowFilter{{}}, maxFilters+1)
	values := &flowpb.FlowFilter{Uuid: slices.Repeat([]string{"a"}, maxValues+1)}
	expressions := slices.Repeat([]*flowpb.FlowFilter{{HttpPath: []string{"a"}}}, maxExpressions+1)
	// In two filters and two lists, because the bound is of a request.
	half := strings.Repeat("[ab]{0,900}", 2)
	white, black := []*flowpb.FlowFilter{{HttpPath: []string{half}}}, []*flowpb.FlowFilter{{DnsQuery: []string{half}}}
	for name, in := range map[string]struct{ white, black []*flowpb.FlowFilter }{
		"filters": {many, nil}, "values": {[]*flowpb.FlowFilter{values}, nil}, "expressions": {expressions, nil}, "instructions": {white, black},
	} {
		if _, err := NewFilter(in.white, in.black); err == nil {
			t.Errorf("too many %s are taken", name)
		}
	}
	if _, err := NewFilter(white, nil); err != nil {
		t.Errorf("half of the instructions: %v", err)
	}
	usual := slices.Repeat([]string{"^/api/v[0-9]+/accounts/[^/]+/transactions/.*$"}, maxExpressions)
	if _, err := NewFilter([]*flowpb.FlowFilter{{HttpPath: usual}}, nil); err != nil {
		t.Errorf("usual expressions: %v", err)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{`{"source_label":["k8s:a in (b),!c"]}`, `{"http_path":["a|b"]}`, `{"node_name":["*a*"]}`, `{"source_ip":["::/0"]}`} {
		in := &flowpb.FlowFilter{}
		if err := protojson.Unmarshal([]byte(s), in); err != nil {
			f.Fatal(err)
		}
		data, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	st := pods()
	flow := newMapper("n", "v", st).flow(st.Snapshot(), answered())
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &flowpb.FlowFilter{}
		if proto.Unmarshal(data, in) != nil {
			return
		}
		if filter, err := NewFilter([]*flowpb.FlowFilter{in}, []*flowpb.FlowFilter{in}); err == nil && filter.Match(flow) {
			t.Error(fmt.Sprint("a flow matches a filter and its negation: ", in))
		}
	})
}
