package traffic

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	istioWebToDB = `connection_security_policy="mutual_tls",destination_principal="` + dbID + `",destination_service="db.bank.svc.cluster.local",destination_service_name="db",destination_service_namespace="bank",destination_workload="db",destination_workload_namespace="bank"`
	istioFromWeb = `source_principal="` + webID + `",source_workload="web.v1",source_workload_namespace="shop"`
)

// TestIstioNames: a request counts once for each reporter, whoever counted it, and sets that differ only in a label that
// Istio has not are one series.
func TestIstioNames(t *testing.T) {
	r, envoy := newRequests(tables())
	c := NewConnections(tables())
	envoy.stats.Counters[ok] = 5
	envoy.stats.Counters["weft.requests."+strings.Replace(tags, "bank/StatefulSet/db", "bank/Deployment/db", 1)+".|code.200.|flags.-.|grpc."] = 2
	envoy.stats.Counters["weft.requests."+tags+".|code.503.|flags.UF.|grpc."] = 1
	envoy.stats.Counters["weft.requests.|by.destination.|own.bank/StatefulSet/db "+dbID+".|addr.10.0.0.1.|peer."+webID+".|code.200.|flags.-.|grpc."] = 5
	d := make([]uint64, len(model.DurationBuckets)+1)
	for i := range d {
		d[i] = 3
	}
	envoy.stats.Durations["weft.duration."+tags] = model.DurationStats{Cumulative: d, Sum: 1500}
	f := flow("shop/web-1", "bank/ledger")
	f.Sent, f.Received = 10, 20
	c.Opened(f)
	c.Ended(f)

	var want strings.Builder
	want.WriteString("# HELP istio_requests_total weft_requests_total by Istio's name.\n# TYPE istio_requests_total counter\n")
	for _, reporter := range []string{"destination", "source"} {
		for _, o := range []struct{ code, flags, n string }{{"200", "-", "7"}, {"503", "UF", "1"}} {
			want.WriteString(`istio_requests_total{` + istioWebToDB + `,grpc_response_status="",reporter="` + reporter +
				`",request_protocol="http",response_code="` + o.code + `",response_flags="` + o.flags + `",` + istioFromWeb + `} ` + o.n + "\n")
		}
	}
	const tcp = `connection_security_policy="none",destination_principal="unknown",destination_service="ledger.bank.svc.cluster.local",destination_service_name="ledger",destination_service_namespace="bank",destination_workload="ledger",destination_workload_namespace="bank",reporter="source",request_protocol="tcp",source_principal="unknown",source_workload="web",source_workload_namespace="shop"`
	want.WriteString("# HELP istio_tcp_sent_bytes_total weft_tcp_received_bytes_total by Istio's name: what the destination sent.\n# TYPE istio_tcp_sent_bytes_total counter\n" +
		"istio_tcp_sent_bytes_total{" + tcp + "} 20\n" +
		"# HELP istio_tcp_received_bytes_total weft_tcp_sent_bytes_total by Istio's name: what the destination received.\n# TYPE istio_tcp_received_bytes_total counter\n" +
		"istio_tcp_received_bytes_total{" + tcp + "} 10\n")
	names := []string{"istio_requests_total", "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"}
	if err := testutil.CollectAndCompare(NewIstio(r, c), strings.NewReader(want.String()), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(NewIstio(r, c), "istio_requests_total"); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if n := testutil.CollectAndCount(NewIstio(r, c), "istio_request_duration_milliseconds"); n != 2 {
		t.Errorf("%d series of durations, want one for each reporter", n)
	}
}
