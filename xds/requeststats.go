package xds

import (
	"strings"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	stats "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
)

// Envoy counts requests by itself: in a histogram of durations, and those with a flag in a counter, with the tags of
// model.RequestTags. The listeners of a namespace share a limit for each reporter, so that one namespace cannot use up the room of another.
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

// requestStats writes all tags into the value of the first one, because each tag of Envoy's costs every request something. So
// does each statistic: most requests are in the histogram alone, whose number of durations is their count.
func (cfg *Config) requestStats(namespace string, tags map[string]string) []*accesslog.AccessLog {
	if !cfg.RequestStats {
		return nil
	}
	tags[model.TagCode] = "%RESP(:STATUS):1%"
	if cfg.RequestCodes {
		tags[model.TagCode] = "%RESPONSE_CODE%"
	}
	tags[model.TagFlags] = "%RESPONSE_FLAGS%"
	tags[model.TagGRPC] = "%GRPC_STATUS_NUMBER%"
	scope := &typev3.Scope{
		Prefix: model.RequestScope, SharingName: tags[model.TagReporter] + "/" + namespace, EnableEviction: true,
		MaxCounters: number(model.MaxRequestsFailed), MaxHistograms: number(model.MaxRequestsAnswered),
	}
	value := requestTags(tags)
	answered := statsLog(&stats.Config{StatsScope: scope, Histograms: []*stats.Config_Histogram{{
		Stat: stat(model.RequestsAnswered, value), Unit: stats.Config_Histogram_Microseconds,
		// Absent, and not counted, where the client does not have the whole answer. Then there is a flag.
		ValueFormat: "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
	}}})
	failed := statsLog(&stats.Config{StatsScope: scope, Counters: []*stats.Config_Counter{{
		Stat: stat(model.RequestsFailed, value), ValueFixed: wrapperspb.UInt64(1),
	}}})
	failed.Filter = &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslog.ResponseFlagFilter{}, // any flag
	}}
	return []*accesslog.AccessLog{answered, failed}
}

// requestTags returns the value of the first tag, with the others in it.
func requestTags(tags map[string]string) string {
	var value strings.Builder
	value.WriteString(tags[model.TagReporter])
	for _, tag := range model.RequestTags[1:] {
		if format, ok := tags[tag]; ok {
			value.WriteString("." + tag + "." + format)
		}
	}
	return value.String()
}

func stat(name, value string) *stats.Config_Stat {
	return &stats.Config_Stat{Name: name, Tags: []*stats.Config_Tag{{Name: model.TagReporter, ValueFormat: value}}}
}

func statsLog(c *stats.Config) *accesslog.AccessLog {
	return &accesslog.AccessLog{Name: "envoy.access_loggers.stats", ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: typed(c)}}
}
