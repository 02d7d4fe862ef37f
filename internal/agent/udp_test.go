package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

func TestUDPExchanges(t *testing.T) {
	local, remote, service := netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:2000"), netip.MustParseAddrPort("10.96.0.1:2000")
	at := time.Unix(1_900_000_000, 0)
	x := datapath.Exchange{Workload: "shop/app", Local: local, Remote: remote, Service: service, Sent: 3, Received: 18, First: at, Last: at.Add(time.Second)}
	in := x
	in.Workload = "store/web"
	in.Local, in.Remote, in.Service, in.Inbound, in.Sent, in.Received = remote, local, netip.AddrPort{}, true, 18, 3
	got := flowsOf(t, func(a *Agent) {
		w := a.st.Write(a.st.Workloads, a.st.Services)
		a.st.Workloads.Put(w, &model.Workload{Namespace: "shop", Name: "app", Addresses: []netip.Addr{local.Addr()}})
		a.st.Workloads.Put(w, &model.Workload{Namespace: "store", Name: "web", Addresses: []netip.Addr{remote.Addr()}})
		a.st.Services.Put(w, &model.Service{
			Namespace: "store", Name: "media", Addresses: []netip.Addr{service.Addr()}, Ports: []model.ServicePort{{Port: 2000, Protocol: model.UDP}},
		})
		w.Commit()
		a.udpExchange(x)
		a.udpExchange(in)
	})
	if len(got) != 2 {
		t.Fatalf("%d flows", len(got))
	}
	for i, side := range []observe.Side{observe.AtSource, observe.AtDestination} {
		f := got[i]
		if f.SeenAt != side || f.Protocol != model.UDP || f.Verdict != observe.Forwarded || f.Layer != observe.L4 || f.Sent != 3 || f.Received != 18 ||
			f.Duration != time.Second || f.Source.Workload != "shop/app" || f.Destination.Workload != "store/web" ||
			(f.Destination.Service == "store/media") != (side == observe.AtSource) {
			t.Errorf("%s: %+v", side, f)
		}
	}
}

// TestUDPIsCounted: exchanges and questions are in the metrics, each as what it is.
func TestUDPIsCounted(t *testing.T) {
	flowsOf(t, func(a *Agent) {
		a.udpExchange(datapath.Exchange{Sent: 3})
		a.dnsExchange(&observe.DNSExchange{DNS: observe.DNS{Code: "NOERROR"}})
		want := "# HELP weft_udp_sent_bytes_total Bytes from the source to the destination, of exchanges of UDP datagrams that have ended.\n" +
			"# TYPE weft_udp_sent_bytes_total counter\n" + `weft_udp_sent_bytes_total{destination_identity="",destination_kind="unknown",destination_namespace="unknown",destination_service="unknown",destination_service_namespace="unknown",destination_workload="unknown",mtls="false",reporter="source",source_identity="",source_kind="unknown",source_namespace="unknown",source_workload="unknown"} 3` + "\n"
		if err := testutil.CollectAndCompare(a.datagrams, strings.NewReader(want), "weft_udp_sent_bytes_total"); err != nil {
			t.Error(err)
		}
		if n := testutil.CollectAndCount(a.datagrams, "weft_dns_questions_total", "weft_udp_exchanges_total"); n != 2 {
			t.Errorf("%d series", n)
		}
	})
}

// TestUDPExchangesOfPodsThatAreGone: the pod that has the address by now did not say it.
func TestUDPExchangesOfPodsThatAreGone(t *testing.T) {
	local, remote := netip.MustParseAddrPort("10.0.0.1:1000"), netip.MustParseAddrPort("10.0.0.2:2000")
	for _, workload := range []string{"shop/before", ""} {
		got := flowsOf(t, func(a *Agent) {
			w := a.st.Write(a.st.Workloads)
			a.st.Workloads.Put(w, &model.Workload{
				Namespace: "shop", Name: "app", Addresses: []netip.Addr{local.Addr()}, Identity: model.NewIdentity("td", "shop", "app"),
			})
			w.Commit()
			a.udpExchange(datapath.Exchange{Workload: workload, Local: local, Remote: remote})
		})
		if len(got) != 1 || got[0].Source.Workload != workload || got[0].Source.Identity != "" || got[0].Source.Address != local {
			t.Errorf("%q: %+v", workload, got)
		}
	}
}

// TestDNSMessages: who asks is told from the port, and between two servers from the message.
func TestDNSMessages(t *testing.T) {
	question := []byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01")
	answer := []byte("\x00\x07\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01")
	low, high := netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:4000")
	other := netip.AddrPortFrom(high.Addr(), 53)
	for name, c := range map[string]struct {
		local, remote netip.AddrPort
		asks          bool // the local end
	}{
		"client": {high, low, true}, "server": {low, high, false}, "a server asks another": {low, other, true}, "a server is asked by another": {low, other, false},
	} {
		var q observe.Queries
		got := flowsOf(t, func(a *Agent) {
			a.dnsMessage(&q, datapath.DNSMessage{Local: c.local, Remote: c.remote, Egress: c.asks, Length: len(question), Data: question})
			a.dnsMessage(&q, datapath.DNSMessage{Local: c.local, Remote: c.remote, Egress: !c.asks, Length: 500, Data: answer, Time: time.Time{}.Add(time.Millisecond)})
		})
		if len(got) != 1 {
			t.Fatalf("%s: %d flows", name, len(got))
		}
		f := got[0]
		asks := f.Source.Address == c.local && f.SeenAt == observe.AtSource
		if asks != c.asks || f.DNS == nil || *f.DNS != (observe.DNS{Name: "web", Type: "A", Code: "NXDOMAIN"}) || f.Sent != uint64(len(question)) ||
			f.Received != 500 || f.Duration != time.Millisecond || f.Verdict != observe.Forwarded || f.Layer != observe.L7 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	for _, tcp := range []bool{false, true} {
		var q observe.Queries
		got := flowsOf(t, func(a *Agent) {
			for i, data := range [][]byte{question, answer} {
				a.dnsMessage(&q, datapath.DNSMessage{Local: high, Remote: low, Egress: i == 0, TCP: tcp, Length: len(data), Data: data})
			}
		})
		if len(got) != 1 || (got[0].Protocol == model.TCP) != tcp || got[0].DNS == nil {
			t.Errorf("TCP %v: %+v", tcp, got)
		}
	}
	got := flowsOf(t, func(a *Agent) {
		a.dnsExchange(&observe.DNSExchange{DNS: observe.DNS{Name: "web"}, Took: observe.QueryTimeout})
	})
	if got[0].Verdict != observe.Failed || got[0].Reason != "no answer within 5s" {
		t.Errorf("no answer: %+v", got[0])
	}
}
