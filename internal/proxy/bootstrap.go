package proxy

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/model"
)

type object = map[string]any

func typed(name string, fields object) object {
	out := object{"@type": "type.googleapis.com/" + name}
	for k, v := range fields {
		out[k] = v
	}
	return out
}

// bootstrap is an envoy.config.bootstrap.v3.Bootstrap as JSON. Everything else comes by ADS, clusters too: a static one
// that takes its certificate on demand ends Envoy 1.40 at its start.
func (c Config) bootstrap() object {
	// No limit on the first answer: an Envoy that does not get it must not become live, or a hot restart without the
	// agent would replace one that serves by one that has nothing.
	ads := object{"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	b := object{
		"node":  object{"id": c.Node, "cluster": "weft"},
		"admin": object{"address": pipe(c.path(AdminSocket), 0o600), "ignore_global_conn_limit": true},
		"bootstrap_extensions": []object{{
			"name":         "envoy.bootstrap.internal_listener",
			"typed_config": typed("envoy.extensions.bootstrap.internal_listener.v3.InternalListener", nil),
		}},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []object{{"envoy_grpc": object{
					"cluster_name": "xds",
					// The agent comes back within seconds; Envoy's own 30 s would leave it without news for long.
					"retry_policy": object{"retry_back_off": object{"base_interval": "0.1s", "max_interval": "0.25s"}},
				}}},
			},
			"lds_config": ads, "cds_config": ads,
		},
		"static_resources": object{"clusters": []object{c.xdsCluster()}},
		"overload_manager": c.overloadManager(),
		"stats_config":     statsConfig(),
		// A worker makes its part of a cluster when it first uses it. Clusters come on demand, for one worker, and the others
		// would pay for it: with 16 workers 1,000 clusters are 28 MB instead of 71 MB.
		"cluster_manager": object{"enable_deferred_cluster_creation": true},
		// No sink is there to be flushed to, but a flush makes the histograms of requests current, and forgets what
		// nobody has updated.
		"stats_flush_interval":    "5s",
		"stats_eviction_interval": "3600s",
		// Statistics of a cluster are made when it gets its first connection.
		"deferred_stat_options": object{"enable_deferred_creation_stats": true},
		"layered_runtime": object{"layers": []object{
			{"name": "weft", "static_layer": object{
				// Envoy refuses expressions of more than 100 instructions; routes may hold longer ones. RE2 is linear.
				"re2.max_program_size.error_level": 10_000,
				// A connection of HTTP/2 ends when half as many of its requests were reset within a second, before their
				// answer (CVE-2023-44487). With Envoy's 500 an outsider's flood on a Gateway made the median of other
				// requests 700 ms; with 100 it is 18 ms.
				"overload.premature_reset_total_stream_count": 100,
			}},
			{"name": model.RuntimeLimits, "rtds_layer": object{"name": model.RuntimeLimits, "rtds_config": object{
				// An agent of an earlier version does not answer.
				"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "2s",
			}}},
		}},
	}
	if c.amend != nil {
		c.amend(b)
	}
	return b
}

func pipe(path string, mode os.FileMode) object {
	p := object{"path": path}
	if mode != 0 {
		p["mode"] = int(mode)
	}
	return object{"pipe": p}
}

// xdsCluster is the agent: ADS and access logs.
func (c Config) xdsCluster() object {
	endpoint := object{"endpoint": object{"address": pipe(c.path(XDSSocket), 0)}}
	return object{
		"name": "xds", "type": "STATIC", "connect_timeout": "1s",
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				object{"explicit_http_config": object{"http2_protocol_options": object{}}}),
		},
		"load_assignment": object{"cluster_name": "xds", "endpoints": []object{{"lb_endpoints": []object{endpoint}}}},
	}
}

// Shares of the heap limit. From the first on, what bounds idle connections and handshakes gets shorter; at the second it has
// become as short as it gets. Both are below those at which work is refused.
const (
	timeoutsShrink  = 0.7
	timeoutsAtLeast = 0.85
	// From the first on, streams that hold most are reset; at the second, all that are tracked. A thread resets 50 at each refresh.
	streamsReset    = 0.7
	allStreamsReset = 0.85
	// trackedFrom is the least that a stream must hold to be reset, as a power of two, in bytes. The largest class of
	// eight has 2 MiB and more.
	trackedFrom = 14
)

// overloadManager keeps one pod from starving the node: memory and connections have limits.
func (c Config) overloadManager() object {
	const heap = "envoy.resource_monitors.fixed_heap"
	at := func(action string, share float64) object {
		return object{"name": "envoy.overload_actions." + action,
			"triggers": []object{{"name": heap, "threshold": object{"value": share}}}}
	}
	return object{
		"refresh_interval": "0.1s",
		"resource_monitors": []object{
			{"name": heap, "typed_config": typed("envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
				object{"max_heap_size_bytes": c.MemoryLimitBytes})},
			{"name": "envoy.resource_monitors.global_downstream_max_connections",
				"typed_config": typed("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
					object{"max_active_downstream_connections": c.MaxConnections})},
		},
		"buffer_factory_config": object{"minimum_account_to_track_power_of_two": trackedFrom},
		"actions": []object{
			reducedTimeouts(heap),
			{"name": "envoy.overload_actions.reset_high_memory_stream", "triggers": []object{{"name": heap,
				"scaled": object{"scaling_threshold": streamsReset, "saturation_threshold": allStreamsReset}}}},
			at("shrink_heap", 0.95), at("disable_http_keepalive", 0.95),
			at("stop_accepting_requests", 0.98), at("stop_accepting_connections", 0.98),
		},
	}
}

// reducedTimeouts ends idle connections and slow handshakes the earlier the more of the heap is taken: whoever holds
// connections without using them gives way before work is refused. See envoy.config.overload.v3.ScaleTimersOverloadActionConfig.
func reducedTimeouts(monitor string) object {
	factor := func(timer, least string) object { return object{"timer": timer, "min_timeout": least} }
	return object{
		"name": "envoy.overload_actions.reduce_timeouts",
		"triggers": []object{{"name": monitor, "scaled": object{
			"scaling_threshold": timeoutsShrink, "saturation_threshold": timeoutsAtLeast}}},
		"typed_config": typed("envoy.config.overload.v3.ScaleTimersOverloadActionConfig", object{"timer_scale_factors": []object{
			factor("HTTP_DOWNSTREAM_CONNECTION_IDLE", "2s"), factor("TRANSPORT_SOCKET_CONNECT", "2s"),
			factor("HTTP_DOWNSTREAM_STREAM_IDLE", "3s"),
		}}),
	}
}

// statsConfig keeps what status and the demo need. Sets of each cluster, endpoint and route table are left out: they
// are most of Envoy's memory in a large mesh.
func statsConfig() object {
	buckets := object{"match": object{"prefix": model.RequestScope + "." + model.RequestDuration}, "buckets": model.DurationBuckets}
	return object{"histogram_bucket_settings": []object{buckets}, "stats_matcher": object{"inclusion_list": object{"patterns": []object{
		{"prefix": "server."},
		{"prefix": "listener_manager."},
		{"prefix": "cluster_manager."},
		{"prefix": "control_plane."},
		{"prefix": "overload."},
		{"prefix": "access_logs."},
		{"exact": statCopiesActive},
		{"exact": statCopiesPending},
		{"prefix": model.RequestScope + "."},
		{"safe_regex": object{"regex": filterScope + `.+\.(` + filterUpdates + `|` + filterReloads + `)`}},
		// http.<stat prefix>.<name>, tcp.<stat prefix>.<name>, udp.<stat prefix>.<name>, but not
		// http.<stat prefix>.rds.<route table>.<name>.
		{"safe_regex": object{"regex": `(http|tcp|udp)\.[^.]+\.[a-z0-9_]+`}},
		{"safe_regex": object{"regex": `listener\..+\.downstream_cx_(total|active|overflow|overload_reject)`}},
		{"safe_regex": object{"regex": `listener\..+\.ssl\.(handshake|connection_error|fail_verify_.+)`}},
	}}}}
}

// writeBootstrap writes <run>/envoy.json.
func (c Config) writeBootstrap() (string, error) {
	data, err := json.MarshalIndent(c.bootstrap(), "", " ")
	if err != nil {
		return "", err
	}
	path := c.path(bootstrapFile)
	return path, atomicfile.Write(path, data, 0o600)
}

// logFormat makes lines that forward can take apart: level, logger, message with newlines escaped.
const logFormat = "%l\t%n\t%_"

// flags of Envoy 1.40 (https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/cli).
func (c Config) flags(bootstrap string, epoch int, baseID uint32) []string {
	workers := c.Concurrency
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	return []string{
		"--config-path", bootstrap,
		"--concurrency", strconv.Itoa(workers),
		"--restart-epoch", strconv.Itoa(epoch),
		"--base-id", strconv.FormatUint(uint64(baseID), 10),
		"--socket-path", c.path("envoy"), "--socket-mode", "600",
		"--drain-time-s", seconds(c.DrainTime),
		"--parent-shutdown-time-s", seconds(c.ParentShutdownTime),
		"--log-level", c.LogLevel, "--log-format", logFormat,
	}
}

func seconds(d time.Duration) string {
	return fmt.Sprint(int((d + time.Second - 1) / time.Second))
}
