// Package metrics tells Prometheus what weft status tells people
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
//
//	GET /metrics          the agent's own, and its process's
//	GET /metrics/proxy    what the node's Envoy counts, in its own names
package metrics

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/model"
)

// maxInFlight bounds the requests that each path answers at once: every one makes the agent or Envoy work.
const maxInFlight = 4

// Handler answers both paths, the first from rows and from what more collects. proxy gives Envoy's metrics in the text
// format.
func Handler(n api.Node, proxy func(context.Context) ([]byte, error), more ...prometheus.Collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), node{n})
	r.MustRegister(more...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: maxInFlight}))
	asking := make(chan struct{}, maxInFlight)
	mux.HandleFunc("GET /metrics/proxy", func(w http.ResponseWriter, r *http.Request) {
		select {
		case asking <- struct{}{}:
			defer func() { <-asking }()
		default:
			http.Error(w, "too many ask for Envoy's metrics at once", http.StatusServiceUnavailable)
			return
		}
		text, err := proxy(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(text)
	})
	return mux
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("weft_"+name, help, labels, nil)
}

var (
	info       = desc("agent_info", "Always 1.", "version", "envoy", "node", "trust_domain")
	synced     = desc("agent_synced", "1 once all objects are read and translated.")
	faults     = desc("node_faults", "What weft status lists as wrong with this node.")
	problems   = desc("objects_with_problems", "Objects that weft status lists with a problem, by kind.", "kind")
	unread     = desc("objects_not_read", "Documents or objects that were not taken as they are written.")
	workloads  = desc("workloads", "Pods of this node in the mesh, by mTLS mode.", "mtls")
	expiry     = desc("svid_not_after_timestamp_seconds", "When the certificate of an identity of this node ends; 0 if there is none.", "identity")
	overdue    = desc("svid_overdue", "1 while the certificate of an identity of this node should have been renewed and was not.", "identity")
	failures   = desc("svid_failed_renewals", "Attempts to renew the certificate of an identity since the last that succeeded.", "identity")
	rejections = desc("proxy_rejected_resources", "xDS resources that Envoy refuses now.")
	live       = desc("proxy_live", "1 while Envoy serves.")
	connected  = desc("proxy_connected", "1 while Envoy holds a stream to the agent.")
	overload   = desc("proxy_overload", "1 while an action of Envoy's overload manager is active: Envoy is short of memory. max_connections: it has as many connections as it may have, and refuses others.", "action")
	restarts   = desc("proxy_restarts_total", "Starts of Envoy after the first.")
	overloads  = desc("proxy_overload_restarts_total", "Starts of Envoy in place of one that stayed in overload.")
	missing    = desc("datapath_missing_hooks", "Hooks at which the kernel does not run the mesh's eBPF program as it should.")
	repairs    = desc("datapath_hook_repairs_total", "Times that a hook or its pin was changed by somebody else and was put right.")
	failed     = desc("datapath_failures", "Objects that the kernel does not hold as it should, by kind.", "kind")
	entries    = desc("datapath_map_entries", "Entries of a BPF map.", "map")
	capacity   = desc("datapath_map_capacity", "The most entries that a BPF map holds.", "map")
	flows      = desc("flows_total", "Flows that were observed.")
	lost       = desc("lost_events_total", "Events that their source dropped before they became flows: kernel-ring is the kernel's ring buffer, refused-connections refusals beyond those that are reported one by one, dns-messages and udp-datagrams what pods say by UDP beyond its bounds, weft-tunnel flows that weft tunnel could not send to the agent, weft-tunnel-messages what it sends beyond the agent's bounds, access-log those that Envoy dropped because the agent took them too slowly; delayed-connections are no events: packets that open connections of sources that open more than they may, which are sent again; mirrored-requests are copies for mirrors that Envoy did not send, because too many were under way; and flows that a target of their export did not get: flow-export-stdout, -file, -otlp.", "source")
	exporting  = desc("flow_export_failing", "1 while a target of the export of flows does not take them.", "to")
	gateways   = desc("gateways", "Gateways, by whether they have an address.", "address")
)

var all = []*prometheus.Desc{
	info, synced, faults, problems, unread, workloads, expiry, overdue, failures, rejections, live, connected, overload,
	restarts, overloads, missing, repairs, failed, entries, capacity, flows, lost, exporting, gateways,
}

// node collects from a status that is made of one snapshot for each scrape.
type node struct{ api.Node }

func (n node) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

func (n node) Collect(ch chan<- prometheus.Metric) {
	s := api.NewStatus(n.Node, time.Now())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(info, 1, s.Agent.Version, s.Agent.Envoy, s.Agent.Node, s.Agent.TrustDomain)
	gauge(synced, number(s.Synced))
	gauge(faults, float64(len(s.Faults)))
	objects(&s, func(kind string, n int) { gauge(problems, float64(n), kind) })
	if s.Folder != nil {
		gauge(unread, float64(len(s.Folder.Problems)))
	}
	modes := map[model.MTLSMode]int{model.MTLSDisabled: 0, model.MTLSPermissive: 0, model.MTLSStrict: 0}
	for _, w := range s.Workloads {
		modes[w.MTLS]++
	}
	for mode, n := range modes {
		gauge(workloads, float64(n), mode.String())
	}
	for _, i := range s.Identities {
		if i.Local {
			gauge(expiry, ends(i.SVID), string(i.Identity))
			gauge(overdue, number(i.Overdue), string(i.Identity))
			gauge(failures, float64(i.Failures), string(i.Identity))
		}
	}
	refused := 0
	for _, r := range s.Rejections {
		if !r.OverBudget() {
			refused++
		}
	}
	gauge(rejections, float64(refused))
	gauge(live, number(s.Proxy.State == "LIVE"))
	gauge(connected, number(s.Proxy.Connected))
	for _, action := range s.Proxy.OverloadActions {
		gauge(overload, number(slices.Contains(s.Proxy.Overload, action)), action)
	}
	count(restarts, float64(s.Proxy.Restarts))
	count(overloads, float64(s.Proxy.Overloads))
	datapath(&s.Datapath, gauge, count)
	if n.Flows != nil {
		count(flows, float64(n.Flows.Count()))
	}
	for _, l := range s.Lost {
		count(lost, float64(l.Count), l.Source)
	}
	for _, e := range s.Exports {
		gauge(exporting, number(e.Error != ""), e.To)
	}
	with := 0
	for _, g := range s.Gateways {
		if len(g.Addresses) > 0 {
			with++
		}
	}
	gauge(gateways, float64(with), "yes")
	gauge(gateways, float64(len(s.Gateways)-with), "no")
}

// datapath collects what is in the kernel.
func datapath(d *api.Datapath, gauge, count func(*prometheus.Desc, float64, ...string)) {
	wrong, repaired := 0, uint64(0)
	for _, h := range d.Hooks {
		repaired += h.Repairs
		if h.Error != "" {
			wrong++
		}
	}
	gauge(missing, float64(wrong))
	count(repairs, float64(repaired))
	byKind := map[model.SubjectKind]int{model.SubjectWorkload: 0, model.SubjectService: 0, model.SubjectNode: 0}
	for _, f := range d.Failures {
		byKind[f.Kind]++
	}
	for kind, n := range byKind {
		gauge(failed, float64(n), string(kind))
	}
	for _, m := range d.Maps {
		gauge(entries, float64(m.Entries), m.Name)
		gauge(capacity, float64(m.Max), m.Name)
	}
}

// objects counts the objects with problems of each kind.
func objects(s *api.Status, count func(kind string, n int)) {
	seen, kinds := map[model.ObjectRef]bool{}, map[string]int{}
	for _, t := range s.Troubles {
		if !seen[t.Object] {
			seen[t.Object] = true
			kinds[t.Object.Kind]++
		}
	}
	for kind, n := range kinds {
		count(kind, n)
	}
}

func ends(c *api.Certificate) float64 {
	if c == nil {
		return 0
	}
	return float64(c.NotAfter.Unix())
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
