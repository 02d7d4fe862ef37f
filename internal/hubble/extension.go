package hubble

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// extension holds what a flow of Weft has and Hubble's has no field for, as a google.protobuf.Struct.
func extension(f *observe.Flow) *anypb.Any {
	fields := map[string]*structpb.Value{"layer": structpb.NewStringValue(string(f.Layer))}
	if f.Open {
		fields["open"] = structpb.NewBoolValue(true)
	}
	if f.Reason != "" {
		fields["reason"] = structpb.NewStringValue(strings.ToValidUTF8(f.Reason, "?"))
	}
	if f.Route != "" {
		fields["route"] = structpb.NewStringValue(f.Route)
	}
	if f.AllowedBy != "" {
		fields["allowedBy"] = structpb.NewStringValue(f.AllowedBy)
	}
	if f.Stream != "" {
		fields["stream"] = structpb.NewStringValue(strings.ToValidUTF8(f.Stream, "?"))
	}
	if f.HTTP != nil && f.HTTP.Backend != "" {
		fields["backend"] = structpb.NewStringValue(f.HTTP.Backend)
	}
	if f.DNS != nil {
		fields["dnsAnswers"] = structpb.NewNumberValue(float64(f.DNS.Answers))
	}
	for key, n := range map[string]float64{
		"bytesSent": float64(f.Sent), "bytesReceived": float64(f.Received), "durationSeconds": f.Duration.Seconds(),
		"rttSeconds": f.RTT.Seconds(), "retransmits": float64(f.Retransmits), "more": float64(f.More),
	} {
		if n != 0 {
			fields[key] = structpb.NewNumberValue(n)
		}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&structpb.Struct{Fields: fields})
	if err != nil {
		return nil // no string of it is invalid
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.Struct", Value: value}
}

// FromFlow returns the flow of Weft that a flow of Hubble's form was made of. What another server than Weft's says and
// Weft has no word for is left out.
func FromFlow(f *flowpb.Flow) *observe.Flow {
	out := &observe.Flow{
		Time: f.GetTime().AsTime(), Layer: observe.L4, Verdict: observe.Failed,
		Source: peer(f.GetSource(), f.GetSourceService()), Destination: peer(f.GetDestination(), f.GetDestinationService()),
	}
	for v, theirs := range verdicts {
		if theirs == f.GetVerdict() {
			out.Verdict = v
		}
	}
	switch f.GetTrafficDirection() {
	case flowpb.TrafficDirection_EGRESS:
		out.SeenAt = observe.AtSource
	case flowpb.TrafficDirection_INGRESS:
		out.SeenAt = observe.AtDestination
	}
	src, dst := f.GetL4().GetTCP().GetSourcePort(), f.GetL4().GetTCP().GetDestinationPort()
	out.Protocol = model.TCP
	if u := f.GetL4().GetUDP(); u != nil {
		out.Protocol, src, dst = model.UDP, u.GetSourcePort(), u.GetDestinationPort()
	}
	out.Source.Address = addrPort(f.GetIP().GetSource(), src)
	out.Destination.Address = addrPort(f.GetIP().GetDestination(), dst)
	for _, p := range slices.Concat(f.GetIngressDeniedBy(), f.GetEgressDeniedBy()) {
		out.Policies = append(out.Policies, model.Key(p.GetNamespace(), p.GetName()))
	}
	if h := f.GetL7().GetHttp(); h != nil {
		out.Layer = observe.L7
		rest := strings.TrimPrefix(h.GetUrl(), "http://")
		host, path, _ := strings.Cut(rest, "/")
		out.HTTP = &observe.Request{Method: h.GetMethod(), Host: host, Path: "/" + path, Status: int(h.GetCode())}
	}
	if d := f.GetL7().GetDns(); d != nil {
		out.Layer = observe.L7
		out.DNS = &observe.DNS{Name: d.GetQuery(), Type: strings.Join(d.GetQtypes(), ",")}
		if name := strings.TrimSuffix(d.GetQuery(), "."); name != "" {
			out.DNS.Name = name
		}
		if f.GetL7().GetType() == flowpb.L7FlowType_RESPONSE {
			out.DNS.SetCode(int(d.GetRcode()))
		}
	}
	extend(out, f.GetExtensions())
	return out
}

// extend adds what extension kept.
func extend(out *observe.Flow, kept *anypb.Any) {
	var s structpb.Struct
	if kept.UnmarshalTo(&s) != nil {
		return
	}
	if l, ok := observe.ParseLayer(s.Fields["layer"].GetStringValue()); ok {
		out.Layer = l
	}
	if out.HTTP != nil {
		out.HTTP.Backend = s.Fields["backend"].GetStringValue()
	}
	if out.DNS != nil {
		out.DNS.Answers = int(max(s.Fields["dnsAnswers"].GetNumberValue(), 0))
	}
	number := func(key string) float64 { return max(s.Fields[key].GetNumberValue(), 0) }
	seconds := func(key string) time.Duration { return time.Duration(number(key) * float64(time.Second)) }
	out.Open, out.Reason = s.Fields["open"].GetBoolValue(), s.Fields["reason"].GetStringValue()
	out.Route, out.Stream = s.Fields["route"].GetStringValue(), s.Fields["stream"].GetStringValue()
	out.AllowedBy = s.Fields["allowedBy"].GetStringValue()
	out.Sent, out.Received = uint64(number("bytesSent")), uint64(number("bytesReceived"))
	out.Duration, out.RTT, out.Retransmits = seconds("durationSeconds"), seconds("rttSeconds"), uint32(number("retransmits"))
	out.More = uint64(number("more"))
}

func peer(e *flowpb.Endpoint, s *flowpb.Service) observe.Peer {
	var out observe.Peer
	if e.GetPodName() != "" {
		out.Workload = model.Key(e.GetNamespace(), e.GetPodName())
	}
	if s.GetName() != "" {
		out.Service = model.Key(s.GetNamespace(), s.GetName())
	}
	for _, l := range e.GetLabels() {
		if id, ok := strings.CutPrefix(l, IdentityLabel+"="); ok {
			out.Identity = model.Identity(id)
		} else if text, ok := strings.CutPrefix(l, podLabel); ok && !strings.HasPrefix(text, namespaceLabel) {
			key, value, _ := strings.Cut(text, "=")
			if out.Labels == nil {
				out.Labels = map[string]string{}
			}
			out.Labels[key] = value
		}
	}
	return out
}

func addrPort(addr string, port uint32) netip.AddrPort {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port))
}
