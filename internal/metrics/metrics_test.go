package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

func newNode() api.Node {
	db := state.NewDB()
	s := api.Node{
		State: state.New(db), Objects: kube.NewObjects(db), Flows: observe.NewStore(2),
		Agent: api.Agent{Version: "v1", Envoy: "1.40.0", Node: "n1", TrustDomain: "td"},
	}
	for range 5 {
		s.Flows.Add(observe.Flow{})
	}
	st := s.State
	tx := st.Write(st.Proxies, st.Workloads, st.Statuses, st.Programmed, st.MapUsage, st.Lost, st.Exports)
	st.Proxies.Put(tx, &model.Proxy{State: "LIVE", Restarts: 2, Overloads: 1})
	report := func(kind model.SubjectKind, name, err string, repairs uint64) {
		st.Programmed.Put(tx, &model.Programmed{Subject: model.Subject{Kind: kind, Name: name}, Error: err, Repairs: repairs})
	}
	report(model.SubjectHook, "sockops", "the program was detached; it was put right", 2)
	report(model.SubjectHook, "connect4", "", 1)
	report(model.SubjectService, "shop/web", "map slots: full", 0)
	report(model.SubjectWorkload, "shop/a", "", 0)
	st.MapUsage.Put(tx, &model.MapUsage{Name: "services", Entries: 3, Max: 10})
	st.Lost.Put(tx, &model.Lost{Source: model.LostKernelRing, Count: 7})
	st.Exports.Put(tx, &model.Export{To: model.ExportFile, Error: "no space left on device"})
	st.Exports.Put(tx, &model.Export{To: model.ExportOTLP})
	st.Workloads.Put(tx, &model.Workload{
		Namespace: "shop", Name: "a", Identity: "spiffe://td/ns/shop/sa/a", MTLS: model.MTLSStrict, Local: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	})
	st.Workloads.Put(tx, &model.Workload{Namespace: "shop", Name: "elsewhere", MTLS: model.MTLSStrict})
	st.Statuses.Put(tx, &model.Status{Object: model.ObjectRef{Kind: "Gateway", Namespace: "shop", Name: "g"}, Conditions: []model.Condition{
		{Type: model.ConditionAccepted, Reason: "Invalid"}, {Type: model.ConditionProgrammed, Reason: "AddressNotAssigned"},
	}})
	tx.Commit()
	return s
}

const want = `
# HELP weft_agent_info Always 1.
# TYPE weft_agent_info gauge
weft_agent_info{envoy="1.40.0",node="n1",trust_domain="td",version="v1"} 1
# HELP weft_agent_synced 1 once all objects are read and translated.
# TYPE weft_agent_synced gauge
weft_agent_synced 0
# HELP weft_datapath_failures Objects that the kernel does not hold as it should, by kind.
# TYPE weft_datapath_failures gauge
weft_datapath_failures{kind="node"} 0
weft_datapath_failures{kind="service"} 1
weft_datapath_failures{kind="workload"} 0
# HELP weft_datapath_hook_repairs_total Times that a hook or its pin was changed by somebody else and was put right.
# TYPE weft_datapath_hook_repairs_total counter
weft_datapath_hook_repairs_total 3
# HELP weft_datapath_map_capacity The most entries that a BPF map holds.
# TYPE weft_datapath_map_capacity gauge
weft_datapath_map_capacity{map="services"} 10
# HELP weft_datapath_map_entries Entries of a BPF map.
# TYPE weft_datapath_map_entries gauge
weft_datapath_map_entries{map="services"} 3
# HELP weft_datapath_missing_hooks Hooks at which the kernel does not run the mesh's eBPF program as it should.
# TYPE weft_datapath_missing_hooks gauge
weft_datapath_missing_hooks 1
# HELP weft_flow_export_failing 1 while a target of the export of flows does not take them.
# TYPE weft_flow_export_failing gauge
weft_flow_export_failing{to="file"} 1
weft_flow_export_failing{to="otlp"} 0
# HELP weft_flows_total Flows that were observed.
# TYPE weft_flows_total counter
weft_flows_total 5
# HELP weft_gateways Gateways, by whether they have an address.
# TYPE weft_gateways gauge
weft_gateways{address="no"} 1
weft_gateways{address="yes"} 0
# HELP weft_lost_events_total Events that their source dropped before they became flows: kernel-ring is the kernel's ring buffer, refused-connections refusals beyond those that are reported one by one, dns-messages and udp-datagrams what pods say by UDP beyond its bounds, weft-tunnel flows that weft tunnel could not send to the agent, weft-tunnel-messages what it sends beyond the agent's bounds, access-log those that Envoy dropped because the agent took them too slowly; delayed-connections are no events: packets that open connections of sources that open more than they may, which are sent again; mirrored-requests are copies for mirrors that Envoy did not send, because too many were under way; and flows that a target of their export did not get: flow-export-stdout, -file, -otlp.
# TYPE weft_lost_events_total counter
weft_lost_events_total{source="kernel-ring"} 7
# HELP weft_node_faults What weft status lists as wrong with this node.
# TYPE weft_node_faults gauge
weft_node_faults 5
# HELP weft_objects_with_problems Objects that weft status lists with a problem, by kind.
# TYPE weft_objects_with_problems gauge
weft_objects_with_problems{kind="Gateway"} 1
# HELP weft_proxy_connected 1 while Envoy holds a stream to the agent.
# TYPE weft_proxy_connected gauge
weft_proxy_connected 0
# HELP weft_proxy_live 1 while Envoy serves.
# TYPE weft_proxy_live gauge
weft_proxy_live 1
# HELP weft_proxy_overload_restarts_total Starts of Envoy in place of one that stayed in overload.
# TYPE weft_proxy_overload_restarts_total counter
weft_proxy_overload_restarts_total 1
# HELP weft_proxy_rejected_resources xDS resources that Envoy refuses now.
# TYPE weft_proxy_rejected_resources gauge
weft_proxy_rejected_resources 0
# HELP weft_proxy_restarts_total Starts of Envoy after the first.
# TYPE weft_proxy_restarts_total counter
weft_proxy_restarts_total 2
# HELP weft_svid_failed_renewals Attempts to renew the certificate of an identity since the last that succeeded.
# TYPE weft_svid_failed_renewals gauge
weft_svid_failed_renewals{identity="spiffe://td/ns/shop/sa/a"} 0
# HELP weft_svid_not_after_timestamp_seconds When the certificate of an identity of this node ends; 0 if there is none.
# TYPE weft_svid_not_after_timestamp_seconds gauge
weft_svid_not_after_timestamp_seconds{identity="spiffe://td/ns/shop/sa/a"} 0
# HELP weft_svid_overdue 1 while the certificate of an identity of this node should have been renewed and was not.
# TYPE weft_svid_overdue gauge
weft_svid_overdue{identity="spiffe://td/ns/shop/sa/a"} 0
# HELP weft_workloads Pods of this node in the mesh, by mTLS mode.
# TYPE weft_workloads gauge
weft_workloads{mtls="disabled"} 0
weft_workloads{mtls="permissive"} 0
weft_workloads{mtls="strict"} 1
`

func TestNode(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(node{newNode()})
	if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("names and types: %v %v", problems, err)
	}
}

func TestHandler(t *testing.T) {
	fails := errors.New("Envoy does not answer")
	for _, test := range []struct {
		path   string
		err    error
		status int
		has    string
	}{
		{"/metrics", fails, 200, "weft_workloads{mtls=\"strict\"} 1"},
		{"/metrics", nil, 200, "go_goroutines"},
		{"/metrics/proxy", nil, 200, "envoy_server_live 1"},
		{"/metrics/proxy", fails, 502, "Envoy does not answer"},
		{"/other", nil, 404, ""},
	} {
		h := Handler(newNode(), func(context.Context) ([]byte, error) { return []byte("envoy_server_live 1\n"), test.err })
		s := httptest.NewServer(h)
		c := &http.Client{Timeout: 10 * time.Second}
		resp, err := c.Get(s.URL + test.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		s.Close()
		if resp.StatusCode != test.status || !strings.Contains(string(body), test.has) {
			t.Errorf("%s: %d %s", test.path, resp.StatusCode, body)
		}
	}
}
