package xds

import (
	"strings"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	stats "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
)

// Envoy counts requests by itself: a counter and a histogram of durations, with the tags of model.RequestTags. The
// listeners of a namespace share a limit for each reporter, so that one namespace cannot use up the room of another.
// Envoy forgets a statistic that was not updated during stats_eviction_interval (in the bootstrap), so what belongs to
// pods that have gone does not stay.

// sourceStats counts the requests of a local workload.
func (cfg *Config) sourceStats(w *model.Workload) []*accesslog.AccessLog {
	return cfg.requestStats(w.Namespace, map[string]string{
		model.TagReporter: "source",
		model.TagSource:   literal(model.PeerTag(w.Namespace, w.CountedAs(), w.Identity)),
		model.TagAddress:  "%DOWNSTREAM_LOCAL_ADDRESS%",
		model.TagPeer:     "%UPSTREAM_METADATA(" + metaWeft + ":" + metaPeer + ")%",
		model.TagCluster:  "%UPSTREAM_CLUSTER_RAW%",
	})
}

// gatewayStats counts the requests to a Gateway.
func (cfg *Config) gatewayStats(g *model.Gateway) []*accesslog.AccessLog {
	return cfg.requestStats(g.Namespace, map[string]string{
		model.TagReporter: "gateway",
		model.TagSource:   literal(model.PeerTag(g.Namespace, model.Owner{Kind: "Gateway", Name: g.Name}, g.Identity)),
		model.TagPeer:     "%UPSTREAM_METADATA(" + metaWeft + ":" + metaPeer + ")%",
		model.TagCluster:  "%UPSTREAM_CLUSTER_RAW%",
	})
}

// destinationStats counts the requests to a local workload whose policy reads requests.
func (cfg *Config) destinationStats(w *model.Workload) []*accesslog.AccessLog {
	return cfg.requestStats(w.Namespace, map[string]string{
		model.TagReporter: "destination",
		model.TagSource:   literal(model.PeerTag(w.Namespace, w.CountedAs(), w.Identity)),
		model.TagAddress:  "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
		model.TagPeer:     "%FILTER_STATE(" + statePeer + ":PLAIN)%",
		model.TagPolicy:   "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)%",
	})
}

// mirrorStats counts the copies that were sent on for mirrors, by cluster. Copies that found too many under way never come here:
// the cluster mirror counts them.
func (cfg *Config) mirrorStats() []*accesslog.AccessLog {
	if !cfg.RequestStats {
		return nil
	}
	// The header is removed from copies that reach their backend, and those that are too large have no cluster yet.
	value := "%UPSTREAM_CLUSTER_RAW%." + model.TagAsked + ".%REQ(" + mirrorCluster + ")%." + model.TagCode + ".%RESPONSE_CODE%." + model.TagFlags + ".%RESPONSE_FLAGS%"
	return []*accesslog.AccessLog{{
		Name: "envoy.access_loggers.stats",
		ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: typed(&stats.Config{
			StatsScope: &typev3.Scope{
				Prefix: model.RequestScope, SharingName: listenerMirror, MaxCounters: number(model.MaxRequestCounters), EnableEviction: true,
			},
			Counters: []*stats.Config_Counter{{
				Stat:       &stats.Config_Stat{Name: model.CopyCounter, Tags: []*stats.Config_Tag{{Name: model.TagCluster, ValueFormat: value}}},
				ValueFixed: wrapperspb.UInt64(1),
			}},
		})},
	}}
}

// requestStats writes all tags into the value of the first one, because each tag of Envoy's costs every request something.
func (cfg *Config) requestStats(namespace string, tags map[string]string) []*accesslog.AccessLog {
	if !cfg.RequestStats {
		return nil
	}
	tags[model.TagCode] = "%RESPONSE_CODE%"
	tags[model.TagFlags] = "%RESPONSE_FLAGS%"
	tags[model.TagGRPC] = "%GRPC_STATUS_NUMBER%"
	stat := func(name string, order []string) *stats.Config_Stat {
		var value strings.Builder
		value.WriteString(tags[model.TagReporter])
		for _, tag := range order[1:] {
			if format, ok := tags[tag]; ok {
				value.WriteString("." + tag + "." + format)
			}
		}
		return &stats.Config_Stat{Name: name, Tags: []*stats.Config_Tag{{Name: model.TagReporter, ValueFormat: value.String()}}}
	}
	return []*accesslog.AccessLog{{
		Name: "envoy.access_loggers.stats",
		ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: typed(&stats.Config{
			StatsScope: &typev3.Scope{
				Prefix: model.RequestScope, SharingName: tags[model.TagReporter] + "/" + namespace,
				MaxCounters: number(model.MaxRequestCounters), MaxHistograms: number(model.MaxRequestDurations), EnableEviction: true,
			},
			Counters: []*stats.Config_Counter{{Stat: stat(model.RequestCounter, model.RequestTags), ValueFixed: wrapperspb.UInt64(1)}},
			Histograms: []*stats.Config_Histogram{{
				Stat: stat(model.RequestDuration, model.DurationTags), Unit: stats.Config_Histogram_Microseconds,
				// Absent, and not counted, where the client went away before it had the answer.
				ValueFormat: "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
			}},
		})},
	}}
}
