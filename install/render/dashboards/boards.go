package main

// boards are the dashboards of the chart.
var boards = []board{mesh, service, workload, gateways, node, controlPlane}

const (
	classes   = "{{response_class}}"
	toService = "{{destination_service_namespace}}/{{destination_service}}"
	to        = "{{destination_namespace}}/{{destination_workload}}"
	from      = "{{source_namespace}}/{{source_workload}}"
	perNode   = "{{instance}}"
)

// calls is what selects requests so that each counts once: at their source, or at the Gateway that they came by.
const calls = `reporter=~"source|gateway"`

// rate returns the sum by labels of what a counter that selector chooses grows by in a second.
func rate(counter, selector, by string) string {
	return sum(`rate(`+counter+`{`+selector+`}[$__rate_interval])`, by)
}

func sum(of, by string) string {
	if by == "" {
		return "sum(" + of + ")"
	}
	return "sum by (" + by + ") (" + of + ")"
}

// share returns the part of requests, or connections, that more selects too. It is 0 where more selects nothing.
func share(counter, selector, more, by string) string {
	all := rate(counter, selector, by)
	return "(" + rate(counter, selector+", "+more, by) + " or 0 * " + all + ") / (" + all + " > 0)"
}

func quantile(q, histogram, selector, by string) string {
	if by != "" {
		by = ", " + by
	}
	return "histogram_quantile(" + q + ", " + rate(histogram+"_bucket", selector, "le"+by) + ")"
}

// quantiles are three queries of a histogram.
func quantiles(histogram, selector string) []query {
	return []query{
		{"p50", quantile("0.5", histogram, selector, "")},
		{"p90", quantile("0.9", histogram, selector, "")},
		{"p99", quantile("0.99", histogram, selector, "")},
	}
}

const (
	requests  = "weft_requests_total"
	duration  = "weft_request_duration_seconds"
	opened    = "weft_tcp_connections_opened_total"
	failing   = `response_class="5xx"`
	serviceBy = "destination_service_namespace, destination_service"
)

var mesh = board{
	name: "mesh", title: "Mesh", about: "What all workloads say to each other, and whether the nodes are well.",
	choose: []choice{{"namespace", `label_values({__name__=~"weft_requests_total|weft_tcp_connections_opened_total"}, destination_namespace)`, true}},
	rows: []row{
		{"Now", []panel{
			{number, "Requests", "A second.", "reqps", []query{{"", rate(requests, calls+inNamespace, "")}}},
			{number, "Answered with 5xx", "Of the requests.", "percentunit", []query{{"", share(requests, calls+inNamespace, failing, "")}}},
			{number, "Connections authenticated", "TCP connections of which both ends proved who they are.", "percentunit",
				[]query{{"", share(opened, `reporter="source"`+inNamespace, `mtls="true"`, "")}}},
			{number, "Faults of nodes", "What weft status lists.", "short", []query{{"", "sum(weft_node_faults)"}}},
		}},
		{"Requests", []panel{
			{overTime, "Requests by answer", "A second.", "reqps", []query{{classes, rate(requests, calls+inNamespace, "response_class")}}},
			{overTime, "Duration", "To the last byte of the answer.", "s", quantiles(duration, calls+inNamespace)},
			{list, "Services", "Those that were called.", "", []query{
				{"Requests a second", rate(requests, calls+inNamespace, serviceBy)},
				{"Answered with 5xx", share(requests, calls+inNamespace, failing, serviceBy)},
				{"p99 in seconds", quantile("0.99", duration, calls+inNamespace, serviceBy)},
			}},
			{list, "Who calls whom", "Workloads.", "", []query{
				{"Requests a second", rate(requests, calls+inNamespace, "source_namespace, source_workload, destination_namespace, destination_workload, mtls")},
			}},
		}},
		{"Connections", []panel{
			{overTime, "Opened", "A second, by whether both ends proved who they are.", "cps",
				[]query{{"mtls {{mtls}}", rate(opened, `reporter="source"`+inNamespace, "mtls")}}},
			{overTime, "Refused", "A second, by reason.", "cps",
				[]query{{"{{reason}}", rate("weft_tcp_connections_refused_total", `reporter="destination"`+inNamespace, "reason")}}},
			{overTime, "Received", "Bytes a second that destinations got, of connections that have ended.", "Bps",
				[]query{{to, rate("weft_tcp_sent_bytes_total", `reporter="destination"`+inNamespace, "destination_namespace, destination_workload")}}},
			{overTime, "Failed", "Connections a second that never were established, or broke.", "cps",
				[]query{{to, rate("weft_tcp_connections_closed_total", `verdict="failed", reporter="source"`+inNamespace, "destination_namespace, destination_workload")}}},
		}},
		{"DNS", []panel{
			{overTime, "Questions by answer", "A second, as those who ask see it, to servers in any namespace.", "reqps", []query{{"{{code}}", rate("weft_dns_questions_total", `reporter="source"`, "code")}}},
			{overTime, "Time to the answer", "As those who ask see it.", "s", quantiles("weft_dns_answer_seconds", `reporter="source"`)},
		}},
	},
}

const inNamespace = `, destination_namespace=~"$namespace"`

// asked selects the Service that was chosen.
const asked = `destination_service_namespace=~"$namespace", destination_service=~"$service"`

var service = board{
	name: "service", title: "Service", about: "The requests and connections to a Service, and how a route splits them.",
	choose: []choice{
		{"namespace", `label_values({__name__=~"weft_requests_total|weft_tcp_connections_opened_total"}, destination_service_namespace)`, false},
		{"service", `label_values({__name__=~"weft_requests_total|weft_tcp_connections_opened_total", destination_service_namespace=~"$namespace"}, destination_service)`, true},
	},
	rows: []row{
		{"Requests", []panel{
			{overTime, "By answer", "A second.", "reqps", []query{{classes, rate(requests, calls+", "+asked, "response_class")}}},
			{overTime, "Duration", "To the last byte of the answer.", "s", quantiles(duration, calls+", "+asked)},
			{overTime, "By workload that answers", "A second. The parts of a canary.", "reqps", []query{{to, rate(requests, calls+", "+asked, "destination_namespace, destination_workload")}}},
			{overTime, "5xx by workload that answers", "Of its requests.", "percentunit", []query{{to, share(requests, calls+", "+asked, failing, "destination_namespace, destination_workload")}}},
			{overTime, "p99 by workload that answers", "", "s", []query{{to, quantile("0.99", duration, calls+", "+asked, "destination_namespace, destination_workload")}}},
			{overTime, "By caller", "A second.", "reqps", []query{{from, rate(requests, calls+", "+asked, "source_namespace, source_workload")}}},
			{overTime, "By verdict", "Forwarded, refused by a policy, or failed: Envoy answered in place of the application.", "reqps",
				[]query{{"{{verdict}}", rate(requests, calls+", "+asked, "verdict")}}},
			{overTime, "Authenticated", "Requests of which both ends proved who they are.", "percentunit",
				[]query{{"", share(requests, calls+", "+asked, `mtls="true"`, "")}}},
		}},
		{"Connections", []panel{
			{overTime, "Opened by caller", "A second.", "cps", []query{{from, rate(opened, `reporter="source", `+asked, "source_namespace, source_workload")}}},
			{overTime, "Bytes", "A second, of connections that have ended.", "Bps", []query{
				{"to the Service", rate("weft_tcp_sent_bytes_total", `reporter="source", `+asked, "")},
				{"from the Service", rate("weft_tcp_received_bytes_total", `reporter="source", `+asked, "")},
			}},
		}},
	},
}

const (
	ofWorkload = `destination_namespace=~"$namespace", destination_workload=~"$workload"`
	byWorkload = `source_namespace=~"$namespace", source_workload=~"$workload"`
)

var workload = board{
	name: "workload", title: "Workload", about: "What a Deployment, or what else makes pods, is asked and asks.",
	choose: []choice{
		{"namespace", `label_values({__name__=~"weft_requests_total|weft_tcp_connections_opened_total"}, destination_namespace)`, false},
		{"workload", `label_values({__name__=~"weft_requests_total|weft_tcp_connections_opened_total", destination_namespace=~"$namespace"}, destination_workload)`, true},
	},
	rows: []row{
		{"Inbound", []panel{
			{overTime, "Requests by answer", "A second.", "reqps", []query{{classes, rate(requests, calls+", "+ofWorkload, "response_class")}}},
			{overTime, "Duration", "To the last byte of the answer.", "s", quantiles(duration, calls+", "+ofWorkload)},
			{overTime, "Requests by caller", "A second.", "reqps", []query{{from, rate(requests, calls+", "+ofWorkload, "source_namespace, source_workload")}}},
			{overTime, "Connections by caller", "A second.", "cps", []query{{from, rate(opened, `reporter="destination", `+ofWorkload, "source_namespace, source_workload")}}},
			{overTime, "Connections refused", "A second, by caller and reason.", "cps",
				[]query{{from + " {{reason}}", rate("weft_tcp_connections_refused_total", `reporter="destination", `+ofWorkload, "source_namespace, source_workload, reason")}}},
			{overTime, "Bytes", "A second, of connections that have ended.", "Bps", []query{
				{"in", rate("weft_tcp_sent_bytes_total", `reporter="destination", `+ofWorkload, "")},
				{"out", rate("weft_tcp_received_bytes_total", `reporter="destination", `+ofWorkload, "")},
			}},
		}},
		{"Outbound", []panel{
			{overTime, "Requests by Service", "A second.", "reqps", []query{{toService, rate(requests, `reporter="source", `+byWorkload, serviceBy)}}},
			{overTime, "5xx by Service", "Of the requests.", "percentunit", []query{{toService, share(requests, `reporter="source", `+byWorkload, failing, serviceBy)}}},
			{overTime, "Connections by destination", "A second.", "cps", []query{{to, rate(opened, `reporter="source", `+byWorkload, "destination_namespace, destination_workload")}}},
			{overTime, "Round trip time", "Smoothed, at the end of a connection in the kernel.", "s", quantiles("weft_tcp_rtt_seconds", `reporter="source", `+byWorkload)},
			{overTime, "Segments sent again", "A second, of connections in the kernel that have ended.", "short",
				[]query{{to, rate("weft_tcp_retransmits_total", `reporter="source", `+byWorkload, "destination_namespace, destination_workload")}}},
		}},
	},
}

const atGateway = `reporter="gateway", source_namespace=~"$namespace", source_workload=~"$gateway"`

var gateways = board{
	name: "gateways", title: "Gateways", about: "What comes into the cluster by Gateways.",
	choose: []choice{
		{"namespace", `label_values(weft_requests_total{reporter="gateway"}, source_namespace)`, true},
		{"gateway", `label_values(weft_requests_total{reporter="gateway", source_namespace=~"$namespace"}, source_workload)`, true},
	},
	rows: []row{
		{"Requests", []panel{
			{overTime, "By answer", "A second.", "reqps", []query{{classes, rate(requests, atGateway, "response_class")}}},
			{overTime, "Duration", "To the last byte of the answer.", "s", quantiles(duration, atGateway)},
			{overTime, "By Gateway", "A second.", "reqps", []query{{from, rate(requests, atGateway, "source_namespace, source_workload")}}},
			{overTime, "5xx by Gateway", "Of its requests.", "percentunit", []query{{from, share(requests, atGateway, failing, "source_namespace, source_workload")}}},
			{overTime, "By Service", "A second.", "reqps", []query{{toService, rate(requests, atGateway, serviceBy)}}},
			{overTime, "By verdict", "Failed: Envoy answered in place of the application.", "reqps", []query{{"{{verdict}}", rate(requests, atGateway, "verdict")}}},
		}},
		{"State", []panel{
			{number, "With an address", "", "short", []query{{"", `max(weft_gateways{address="yes"})`}}},
			{number, "Without an address", "weft check names them.", "short", []query{{"", `max(weft_gateways{address="no"})`}}},
		}},
		{"Envoy", []panel{
			{overTime, "Connections of clients", "At one moment. Of the page /metrics/proxy, as all of this row.", "short",
				[]query{{perNode, sum(`envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="gateway"}`, "instance")}}},
			{overTime, "Connections opened", "A second.", "cps",
				[]query{{perNode, rate("envoy_http_downstream_cx_total", `envoy_http_conn_manager_prefix="gateway"`, "instance")}}},
		}},
	},
}

const onNode = `instance=~"$instance"`

var node = board{
	name: "node", title: "Node", about: "Agents, kernels and Envoys, node by node.",
	choose: []choice{{"instance", "label_values(weft_agent_info, instance)", true}},
	rows: []row{
		{"Health", []panel{
			{number, "Faults", "What weft status lists.", "short", []query{{"", sum("weft_node_faults{"+onNode+"}", "")}}},
			{number, "Hooks missing", "Programs that the kernel does not run as it should.", "short", []query{{"", sum("weft_datapath_missing_hooks{"+onNode+"}", "")}}},
			{number, "Certificates overdue", "", "short", []query{{"", "(" + sum("weft_svid_overdue{"+onNode+"}", "") + " or vector(0))"}}},
			{number, "Envoys that serve", "", "short", []query{{"", sum("weft_proxy_live{"+onNode+"}", "")}}},
		}},
		{"Kernel", []panel{
			{overTime, "Fill of maps", "Of the entries that a map may have; the ten that are fullest.", "percentunit", []query{{perNode + " {{map}}", "topk(10, weft_datapath_map_entries{" + onNode + "} / weft_datapath_map_capacity)"}}},
			{overTime, "Objects that the kernel does not hold", "By kind.", "short", []query{{perNode + " {{kind}}", "weft_datapath_failures{" + onNode + "}"}}},
			{overTime, "Flows", "A second.", "short", []query{{perNode, rate("weft_flows_total", onNode, "instance")}}},
			{overTime, "Events lost, hooks put right", "A second.", "short", []query{
				{perNode + " lost", rate("weft_lost_events_total", onNode, "instance")},
				{perNode + " hooks", rate("weft_datapath_hook_repairs_total", onNode, "instance")},
			}},
			{overTime, "Workloads", "Pods in the mesh by mTLS mode.", "short", []query{{"{{mtls}}", sum("weft_workloads{"+onNode+"}", "mtls")}}},
			{overTime, "Certificates", "How long the one that ends first is still good for.", "s", []query{{perNode, "min by (instance) ((weft_svid_not_after_timestamp_seconds{" + onNode + "} > 0) - time())"}}},
		}},
		{"Agent", []panel{
			{overTime, "CPU", "", "percentunit", []query{{perNode, "rate(process_cpu_seconds_total{" + onNode + "}[$__rate_interval]) and on (instance) weft_agent_info"}}},
			{overTime, "Memory", "Resident.", "bytes", []query{{perNode, "process_resident_memory_bytes{" + onNode + "} and on (instance) weft_agent_info"}}},
		}},
		{"Envoy", []panel{
			{overTime, "Starts after the first, for overload among them", "", "short", []query{
				{perNode, "increase(weft_proxy_restarts_total{" + onNode + "}[1h])"},
				{perNode + " overload", "increase(weft_proxy_overload_restarts_total{" + onNode + "}[1h])"},
			}},
			{overTime, "Resources refused", "weft config status names the objects.", "short", []query{{perNode, "weft_proxy_rejected_resources{" + onNode + "}"}}},
			{overTime, "Memory", "That Envoy has allocated. Of the page /metrics/proxy.", "bytes", []query{{perNode, "envoy_server_memory_allocated{" + onNode + "}"}}},
			{overTime, "Short of memory", "Actions of the overload manager that are active.", "short", []query{{perNode + " {{action}}", "weft_proxy_overload{" + onNode + "}"}}},
		}},
	},
}

var controlPlane = board{
	name: "control-plane", title: "Control plane", about: "Controllers, the certificate authority, and whether the agents are in step.",
	rows: []row{
		{"Now", []panel{
			{number, "Leaders", "", "short", []query{{"", `sum(leader_election_master_status{name="weft-controller"})`}}},
			{number, "Agents", "", "short", []query{{"", "count(weft_agent_info)"}}},
			{number, "Agents that have read all objects", "", "short", []query{{"", "sum(weft_agent_synced)"}}},
			{number, "Objects that were not taken as written", "The most that an agent has.", "short", []query{{"", "max(weft_objects_not_read)"}}},
		}},
		{"Agents", []panel{
			{overTime, "By version", "", "short", []query{{"{{version}}", "count by (version) (weft_agent_info)"}}},
			{overTime, "Objects with a problem", "The most that an agent lists, by kind.", "short", []query{{"{{kind}}", "max by (kind) (weft_objects_with_problems) or on () vector(0)"}}},
		}},
		{"Certificate authority", []panel{
			{overTime, "Certificates", "A second, by what became of the request.", "short", []query{{"{{result}}", rate("weft_ca_svids_total", "", "result")}}},
			{overTime, "Requests of strangers, and that were told to come again", "A second.", "short", []query{
				{"strangers", rate("weft_ca_unauthorized_requests_total", "", "")}, {"told to come again", rate("weft_ca_busy_total", "", "")},
			}},
			{overTime, "Root and intermediate", "How long they are still good for.", "s", []query{
				{"root", "min(weft_ca_root_not_after_timestamp_seconds > 0) - time()"},
				{"intermediate", "min(weft_ca_intermediate_not_after_timestamp_seconds > 0) - time()"},
			}},
		}},
		{"Controllers", []panel{
			{overTime, "CPU", "", "percentunit", []query{{perNode, "rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) weft_ca_root_not_after_timestamp_seconds"}}},
			{overTime, "Memory", "Resident.", "bytes", []query{{perNode, "process_resident_memory_bytes and on (instance) weft_ca_root_not_after_timestamp_seconds"}}},
		}},
	},
}
