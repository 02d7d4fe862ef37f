package flowexport

import (
	"fmt"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/weft-mesh/weft/internal/observe"
)

// EventName is that of the log records of flows.
const EventName = "weft.flow"

// maxText bounds a text of a record, in bytes: a path is as long as its client wants.
const maxText = 2048

// record returns a flow as a log record. Attributes have the names of OpenTelemetry's semantic conventions where these have
// one, else names that begin with weft. What is not known is left out.
func record(i item, now time.Time) *logs.LogRecord {
	f := i.flow
	severity := logs.SeverityNumber_SEVERITY_NUMBER_INFO
	if f.Verdict != observe.Forwarded {
		severity = logs.SeverityNumber_SEVERITY_NUMBER_WARN
	}
	all := attributes(
		text("weft.verdict", string(f.Verdict)), text("weft.layer", string(f.Layer)), text("weft.reporter", string(f.SeenAt)),
		text("weft.reason", f.Reason), list("weft.policies", f.Policies), text("weft.allowed_by", f.AllowedBy), text("weft.route", f.Route),
		text("network.transport", strings.ToLower(f.Protocol.String())),
		number("weft.bytes.sent", f.Sent), number("weft.bytes.received", f.Received), seconds("weft.duration", f.Duration),
		seconds("weft.rtt", f.RTT), number("weft.retransmits", uint64(f.Retransmits)), number("weft.refused_more", f.More), number("weft.lost_before", i.lost),
	)
	if f.Open {
		all = append(all, &common.KeyValue{Key: "weft.open", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}})
	}
	all = append(all, peer("source", f.Source)...)
	all = append(all, peer("destination", f.Destination)...)
	if r := f.HTTP; r != nil {
		all = append(all, attributes(
			text("http.request.method", r.Method), text("server.address", r.Host), text("url.path", r.Path),
			number("http.response.status_code", uint64(max(r.Status, 0))), text("weft.backend.pod", r.Backend),
		)...)
	}
	if d := f.DNS; d != nil {
		all = append(all, attributes(
			text("dns.question.name", d.Name), text("weft.dns.type", d.Type), text("weft.dns.code", d.Code),
			number("weft.dns.answers", uint64(max(d.Answers, 0))),
		)...)
	}
	return &logs.LogRecord{
		TimeUnixNano: uint64(f.Time.UnixNano()), ObservedTimeUnixNano: uint64(now.UnixNano()),
		SeverityNumber: severity, SeverityText: strings.TrimPrefix(severity.String(), "SEVERITY_NUMBER_"), EventName: EventName,
		Body:       &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: valid(fmt.Sprintf("%s %s %s -> %s", f.Verdict, f.Layer, f.Source, f.Destination))}},
		Attributes: all,
	}
}

// peer returns the attributes of an end.
func peer(end string, p observe.Peer) []*common.KeyValue {
	address := ""
	if p.Address.IsValid() {
		address = p.Address.Addr().String()
	}
	return attributes(
		text(end+".address", address), number(end+".port", uint64(p.Address.Port())), text("weft."+end+".namespace", p.Namespace()),
		text("weft."+end+".pod", p.Workload), text("weft."+end+".service", p.Service), text("weft."+end+".identity", string(p.Identity)),
	)
}

// attributes leaves out those that are nil.
func attributes(all ...*common.KeyValue) []*common.KeyValue {
	var out []*common.KeyValue
	for _, kv := range all {
		if kv != nil {
			out = append(out, kv)
		}
	}
	return out
}

func valid(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "?")
}

func text(key, value string) *common.KeyValue {
	if value == "" {
		return nil
	}
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: valid(value)}}}
}

func number(key string, value uint64) *common.KeyValue {
	if value == 0 {
		return nil
	}
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(value)}}}
}

func seconds(key string, value time.Duration) *common.KeyValue {
	if value == 0 {
		return nil
	}
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: value.Seconds()}}}
}

// maxList bounds the values of a list.
const maxList = 32

func list(key string, values []string) *common.KeyValue {
	if len(values) == 0 {
		return nil
	}
	out := &common.ArrayValue{}
	for _, v := range values[:min(len(values), maxList)] {
		out.Values = append(out.Values, &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: valid(v)}})
	}
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: out}}}
}
