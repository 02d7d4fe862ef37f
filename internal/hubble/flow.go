package hubble

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Types of events, and the points at which connections are observed, as Cilium's monitor numbers them
// (cilium/pkg/monitor/api: MessageType*, TraceToLxc, TraceFromLxc).
const (
	typeDrop      = 1
	typeTrace     = 4
	typeAccessLog = 129
	toEndpoint    = 0
	fromEndpoint  = 5
)

// mapper turns flows of a node into Hubble's.
type mapper struct {
	node, version string
	st            *state.State
	process       uint64 // tells the flows of this process from those of an earlier one with the same numbers
}

func newMapper(node, version string, st *state.State) *mapper {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails (crypto/rand)
	return &mapper{node: node, version: version, st: st, process: binary.BigEndian.Uint64(b[:])}
}

// flow returns Hubble's form of a flow, with what snap says of its ends.
func (m *mapper) flow(snap *state.Snapshot, f *observe.Flow) *flowpb.Flow {
	out := m.filtered(snap, f)
	out.Time, out.Extensions = timestamppb.New(f.Time), extension(f)
	out.Emitter = &flowpb.Emitter{Name: "Weft", Version: m.version}
	out.Summary = summary(f) //nolint:staticcheck // deprecated in the API, and what the hubble command prints
	return out
}

// filtered returns those fields of flow that a Filter looks at.
func (m *mapper) filtered(snap *state.Snapshot, f *observe.Flow) *flowpb.Flow {
	out := &flowpb.Flow{
		Uuid: uuid(m.process, f.Seq), NodeName: m.node,
		Source: m.endpoint(snap, &f.Source), Destination: m.endpoint(snap, &f.Destination),
		SourceService: service(f.Source.Service), DestinationService: service(f.Destination.Service),
		Verdict: verdicts[f.Verdict], IP: addresses(f), L4: ports(f), Type: flowpb.FlowType_L3_L4,
		IsReply: wrapperspb.Bool(false),
	}
	switch f.SeenAt {
	case observe.AtSource:
		out.TrafficDirection = flowpb.TrafficDirection_EGRESS
		out.TraceObservationPoint = flowpb.TraceObservationPoint_FROM_ENDPOINT
		out.EventType = &flowpb.CiliumEventType{Type: typeTrace, SubType: fromEndpoint}
	default:
		out.TrafficDirection = flowpb.TrafficDirection_INGRESS
		out.TraceObservationPoint = flowpb.TraceObservationPoint_TO_ENDPOINT
		out.EventType = &flowpb.CiliumEventType{Type: typeTrace, SubType: toEndpoint}
	}
	if authenticated(f) {
		out.AuthType = flowpb.AuthType_SPIRE // SPIFFE; Hubble has no other word for it
	}
	if f.Verdict == observe.Refused {
		refused(out, f)
	}
	if rule := strings.Split(f.AllowedBy, "/"); len(rule) == 4 { // kind, namespace, name and number, which Hubble has no place for
		out.IngressAllowedBy = []*flowpb.Policy{{Kind: rule[0], Namespace: rule[1], Name: rule[2]}}
	}
	if f.HTTP != nil {
		request(out, f)
	}
	if f.DNS != nil {
		question(out, f)
	}
	return out
}

// refused adds why a flow was refused, and by which policies.
func refused(out *flowpb.Flow, f *observe.Flow) {
	out.DropReasonDesc = dropReason(f)
	out.DropReason = uint32(out.DropReasonDesc) //nolint:staticcheck // deprecated in the API, and read by clients of earlier versions
	out.EventType = &flowpb.CiliumEventType{Type: typeDrop, SubType: int32(out.DropReasonDesc)}
	out.TraceObservationPoint = flowpb.TraceObservationPoint_UNKNOWN_POINT
	for _, key := range f.Policies {
		ns, name := model.SplitKey(key)
		out.IngressDeniedBy = append(out.IngressDeniedBy, &flowpb.Policy{Kind: "AuthorizationPolicy", Namespace: ns, Name: name})
	}
}

// request adds what is known of an HTTP request and its answer.
func request(out *flowpb.Flow, f *observe.Flow) {
	layer7(out)
	out.L7 = &flowpb.Layer7{
		Type: flowpb.L7FlowType_RESPONSE, LatencyNs: uint64(max(f.Duration, 0)),
		Record: &flowpb.Layer7_Http{Http: &flowpb.HTTP{
			Code: uint32(max(f.HTTP.Status, 0)), Method: strings.ToValidUTF8(f.HTTP.Method, "?"), Url: url(f.HTTP),
		}},
	}
}

// question adds what is known of a question of DNS and its answer.
func question(out *flowpb.Flow, f *observe.Flow) {
	layer7(out)
	code, answered := f.DNS.CodeNumber()
	out.L7 = &flowpb.Layer7{
		Type: flowpb.L7FlowType_REQUEST, LatencyNs: uint64(max(f.Duration, 0)),
		Record: &flowpb.Layer7_Dns{Dns: &flowpb.DNS{Query: query(f.DNS), Rcode: uint32(code), Qtypes: []string{f.DNS.Type}}},
	}
	if answered {
		out.L7.Type = flowpb.L7FlowType_RESPONSE
	}
}

// query is the name with the dot that Hubble writes at its end, "" if it is not known. It is ASCII (observe.DNS).
func query(d *observe.DNS) string {
	if d.Name == "" {
		return ""
	}
	return strings.TrimSuffix(d.Name, ".") + "."
}

func layer7(out *flowpb.Flow) {
	out.Type = flowpb.FlowType_L7
	out.EventType = &flowpb.CiliumEventType{Type: typeAccessLog}
	out.TraceObservationPoint = flowpb.TraceObservationPoint_UNKNOWN_POINT
}

// url leaves the path alone if the host is not known. A message of protobuf cannot hold what is not UTF-8.
func url(r *observe.Request) string {
	out := r.Path
	if r.Host != "" {
		out = "http://" + r.Host + r.Path
	}
	return strings.ToValidUTF8(out, "?")
}

var verdicts = map[observe.Verdict]flowpb.Verdict{
	observe.Forwarded: flowpb.Verdict_FORWARDED, observe.Refused: flowpb.Verdict_DROPPED, observe.Failed: flowpb.Verdict_ERROR,
}

// authenticated reports whether both ends proved who they are, which in the mesh is by mutual TLS.
func authenticated(f *observe.Flow) bool {
	return f.Source.Identity != "" && f.Destination.Identity != ""
}

func addresses(f *observe.Flow) *flowpb.IP {
	src, dst := f.Source.Address.Addr().Unmap(), f.Destination.Address.Addr().Unmap()
	out := &flowpb.IP{Encrypted: authenticated(f)}
	if src.IsValid() {
		out.Source = src.WithZone("").String()
	}
	if dst.IsValid() {
		out.Destination = dst.WithZone("").String()
	}
	switch {
	case src.Is4() || !src.IsValid() && dst.Is4():
		out.IpVersion = flowpb.IPVersion_IPv4
	case src.IsValid() || dst.IsValid():
		out.IpVersion = flowpb.IPVersion_IPv6
	}
	return out
}

func ports(f *observe.Flow) *flowpb.Layer4 {
	src, dst := uint32(f.Source.Address.Port()), uint32(f.Destination.Address.Port())
	if f.Protocol == model.UDP {
		return &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{SourcePort: src, DestinationPort: dst}}}
	}
	return &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: src, DestinationPort: dst}}}
}

// uuid returns a UUID of version 8 (RFC 9562): 60 bits of the process, 62 bits of the flow's number.
func uuid(process, seq uint64) string {
	high := process>>16<<16 | 0x8000 | process&0xfff
	low := seq&(1<<62-1) | 1<<63
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", high>>32, high>>16&0xffff, high&0xffff, low>>48, low&(1<<48-1))
}
