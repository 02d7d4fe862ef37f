package hubble

import (
	"fmt"
	"regexp/syntax"
	"slices"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Bounds of the filters of a request.
const (
	maxFilters     = 64   // in each of the lists
	maxValues      = 1024 // of all filters of a request
	maxExpressions = 32   // regular expressions of a request
	maxExpression  = 256  // bytes of one
	// maxInstructions bounds what all expressions of a request compile to. 256 bytes can be 60,000 instructions, by counts such as
	// .{0,990}: 3 MB, and half a second for one long path.
	maxInstructions = 4000
	maxValue        = 1024 // bytes of any other value
)

// Filter takes flows as the whitelist and the blacklist of a request say (observer.proto, GetFlowsRequest): one of the
// whitelist must match if there is any, and none of the blacklist.
type Filter struct{ white, black []clause }

// clause is a FlowFilter: all of its tests must pass.
type clause []test

// test looks at one field.
type test func(*flowpb.Flow) bool

// NewFilter reads the lists. An error names the field. A field that Weft's flows have nothing for is an error, so that no
// filter is passed over in silence.
func NewFilter(whitelist, blacklist []*flowpb.FlowFilter) (Filter, error) {
	var f Filter
	var b budget
	for _, list := range []struct {
		name string
		in   []*flowpb.FlowFilter
		out  *[]clause
	}{{"whitelist", whitelist, &f.white}, {"blacklist", blacklist, &f.black}} {
		if len(list.in) > maxFilters {
			return Filter{}, fmt.Errorf("%s: %d filters; there may be %d", list.name, len(list.in), maxFilters)
		}
		for _, in := range list.in {
			c, err := b.compile(in)
			if err != nil {
				return Filter{}, fmt.Errorf("%s: %w", list.name, err)
			}
			*list.out = append(*list.out, c)
		}
	}
	return f, nil
}

// Match reports whether the filter takes a flow.
func (f Filter) Match(flow *flowpb.Flow) bool {
	matches := func(c clause) bool { return c.match(flow) }
	return (len(f.white) == 0 || slices.ContainsFunc(f.white, matches)) && !slices.ContainsFunc(f.black, matches)
}

func (f Filter) empty() bool { return len(f.white) == 0 && len(f.black) == 0 }

func (c clause) match(flow *flowpb.Flow) bool {
	for _, t := range c {
		if !t(flow) {
			return false
		}
	}
	return true
}

// budget is what a request has used of its bounds.
type budget struct{ values, expressions, instructions int }

// compile reads a FlowFilter.
func (b *budget) compile(in *flowpb.FlowFilter) (clause, error) {
	message := in.ProtoReflect()
	if len(message.GetUnknown()) > 0 {
		return nil, fmt.Errorf("a field of a later version of the API than this server's")
	}
	var out clause
	var failed error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		failed = b.take(field, value)
		build := fields[field.Name()]
		if failed == nil && build == nil {
			failed = fmt.Errorf("flows of Weft cannot be filtered by it")
		}
		if failed == nil {
			var t test
			t, failed = build(in)
			out = append(out, t)
		}
		if failed != nil {
			failed = fmt.Errorf("%s: %w", field.Name(), failed)
		}
		return failed == nil
	})
	return out, failed
}

// take counts the values of a field.
func (b *budget) take(field protoreflect.FieldDescriptor, value protoreflect.Value) error {
	if !field.IsList() {
		return nil
	}
	list := value.List()
	if b.values += list.Len(); b.values > maxValues {
		return fmt.Errorf("more than %d values in all filters together", maxValues)
	}
	most, expressions := maxValue, false
	if field.Name() == "http_path" || field.Name() == "http_url" || field.Name() == "dns_query" {
		most, expressions = maxExpression, true
		if b.expressions += list.Len(); b.expressions > maxExpressions {
			return fmt.Errorf("more than %d regular expressions in all filters together", maxExpressions)
		}
	}
	for i := range list.Len() {
		if s, ok := list.Get(i).Interface().(string); ok && len(s) > most {
			return fmt.Errorf("a value of %d bytes; there may be %d", len(s), most)
		}
		if !expressions {
			continue
		}
		if b.instructions += instructions(list.Get(i).String()); b.instructions > maxInstructions {
			return fmt.Errorf("the regular expressions of all filters together compile to more than %d instructions; counts such as {0,999} take many", maxInstructions)
		}
	}
	return nil
}

// instructions returns what an expression compiles to, 0 if it is not valid.
func instructions(expression string) int {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0
	}
	return len(prog.Inst)
}

// fields are those of a FlowFilter that are understood.
var fields = map[protoreflect.Name]func(*flowpb.FlowFilter) (test, error){
	"uuid":            func(f *flowpb.FlowFilter) (test, error) { return among(f.Uuid, (*flowpb.Flow).GetUuid), nil },
	"source_ip":       func(f *flowpb.FlowFilter) (test, error) { return byIP(f.SourceIp, sourceIP) },
	"destination_ip":  func(f *flowpb.FlowFilter) (test, error) { return byIP(f.DestinationIp, destinationIP) },
	"ip_version":      func(f *flowpb.FlowFilter) (test, error) { return among(f.IpVersion, ipVersion), nil },
	"encrypted":       func(f *flowpb.FlowFilter) (test, error) { return among(f.Encrypted, encrypted), nil },
	"source_identity": func(f *flowpb.FlowFilter) (test, error) { return among(f.SourceIdentity, sourceIdentity), nil },
	"destination_identity": func(f *flowpb.FlowFilter) (test, error) {
		return among(f.DestinationIdentity, destinationIdentity), nil
	},
	"source_pod":          func(f *flowpb.FlowFilter) (test, error) { return byName(f.SourcePod, sourcePod) },
	"destination_pod":     func(f *flowpb.FlowFilter) (test, error) { return byName(f.DestinationPod, destinationPod) },
	"source_service":      func(f *flowpb.FlowFilter) (test, error) { return byName(f.SourceService, sourceService) },
	"destination_service": func(f *flowpb.FlowFilter) (test, error) { return byName(f.DestinationService, destinationService) },
	"source_label":        func(f *flowpb.FlowFilter) (test, error) { return byLabels(f.SourceLabel, (*flowpb.Flow).GetSource) },
	"destination_label": func(f *flowpb.FlowFilter) (test, error) {
		return byLabels(f.DestinationLabel, (*flowpb.Flow).GetDestination)
	},
	"source_workload": func(f *flowpb.FlowFilter) (test, error) {
		return byWorkload(f.SourceWorkload, (*flowpb.Flow).GetSource), nil
	},
	"destination_workload": func(f *flowpb.FlowFilter) (test, error) {
		return byWorkload(f.DestinationWorkload, (*flowpb.Flow).GetDestination), nil
	},
	"source_port":      func(f *flowpb.FlowFilter) (test, error) { return byPort(f.SourcePort, sourcePort) },
	"destination_port": func(f *flowpb.FlowFilter) (test, error) { return byPort(f.DestinationPort, destinationPort) },
	"traffic_direction": func(f *flowpb.FlowFilter) (test, error) {
		return among(f.TrafficDirection, (*flowpb.Flow).GetTrafficDirection), nil
	},
	"verdict":          func(f *flowpb.FlowFilter) (test, error) { return among(f.Verdict, (*flowpb.Flow).GetVerdict), nil },
	"drop_reason_desc": func(f *flowpb.FlowFilter) (test, error) { return byDropReason(f.DropReasonDesc), nil },
	"event_type":       func(f *flowpb.FlowFilter) (test, error) { return byEventType(f.EventType), nil },
	"protocol":         func(f *flowpb.FlowFilter) (test, error) { return byProtocol(f.Protocol) },
	"reply":            func(f *flowpb.FlowFilter) (test, error) { return among(f.Reply, reply), nil },
	"node_name":        func(f *flowpb.FlowFilter) (test, error) { return byNode(f.NodeName) },
	"http_status_code": func(f *flowpb.FlowFilter) (test, error) { return byStatus(f.HttpStatusCode) },
	"http_method":      func(f *flowpb.FlowFilter) (test, error) { return byMethod(f.HttpMethod), nil },
	"http_path":        func(f *flowpb.FlowFilter) (test, error) { return byExpression(f.HttpPath, isHTTP, path) },
	"http_url":         func(f *flowpb.FlowFilter) (test, error) { return byExpression(f.HttpUrl, isHTTP, httpURL) },
	"dns_query":        func(f *flowpb.FlowFilter) (test, error) { return byQuery(f.DnsQuery) },
}

// among passes flows of which a field is one of the values.
func among[T comparable](values []T, of func(*flowpb.Flow) T) test {
	return func(f *flowpb.Flow) bool { return slices.Contains(values, of(f)) }
}

func ipVersion(f *flowpb.Flow) flowpb.IPVersion { return f.GetIP().GetIpVersion() }
func encrypted(f *flowpb.Flow) bool             { return f.GetIP().GetEncrypted() }
func reply(f *flowpb.Flow) bool                 { return f.GetIsReply().GetValue() }
func sourceIP(f *flowpb.Flow) string            { return f.GetIP().GetSource() }
func destinationIP(f *flowpb.Flow) string       { return f.GetIP().GetDestination() }
func sourceIdentity(f *flowpb.Flow) uint32      { return f.GetSource().GetIdentity() }
func destinationIdentity(f *flowpb.Flow) uint32 { return f.GetDestination().GetIdentity() }
