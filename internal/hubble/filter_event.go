package hubble

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
)

func byDropReason(values []flowpb.DropReason) test {
	return func(f *flowpb.Flow) bool {
		return f.GetVerdict() == flowpb.Verdict_DROPPED && slices.Contains(values, f.GetDropReasonDesc())
	}
}

// byEventType passes flows by the number of Cilium's monitor; 0 is any.
func byEventType(values []*flowpb.EventTypeFilter) test {
	return func(f *flowpb.Flow) bool {
		e := f.GetEventType()
		return slices.ContainsFunc(values, func(v *flowpb.EventTypeFilter) bool {
			return (v.GetType() == 0 || v.GetType() == e.GetType()) && (!v.GetMatchSubType() || v.GetSubType() == e.GetSubType())
		})
	}
}

// byProtocol passes flows by the name of a protocol. Of those that Hubble knows and Weft does not report, no flow passes.
func byProtocol(values []string) (test, error) {
	var tcp, udp, http, dns bool
	for _, v := range values {
		switch strings.ToLower(v) {
		case "tcp":
			tcp = true
		case "udp":
			udp = true
		case "http":
			http = true
		case "dns":
			dns = true
		case "icmp", "icmpv4", "icmpv6", "sctp", "vrrp", "igmp":
			return nil, fmt.Errorf("there are no flows of %q", v)
		default:
			return nil, fmt.Errorf("%q is not a protocol", v)
		}
	}
	return func(f *flowpb.Flow) bool {
		return tcp && f.GetL4().GetTCP() != nil || udp && f.GetL4().GetUDP() != nil || http && f.GetL7().GetHttp() != nil ||
			dns && f.GetL7().GetDns() != nil
	}, nil
}

var statusPattern = regexp.MustCompile(`^[1-5]([0-9][0-9]|[0-9]?\+)$`)

// byStatus passes answers by status: 404, 4+, 40+.
func byStatus(values []string) (test, error) {
	for _, v := range values {
		if !statusPattern.MatchString(v) {
			return nil, fmt.Errorf("%q is not a status such as 404, 40+ or 5+", v)
		}
	}
	return func(f *flowpb.Flow) bool {
		h := f.GetL7().GetHttp()
		if h.GetCode() == 0 {
			return false
		}
		code := strconv.Itoa(int(h.GetCode()))
		return slices.ContainsFunc(values, func(v string) bool {
			prefix, more := strings.CutSuffix(v, "+")
			return code == v || more && len(code) == 3 && strings.HasPrefix(code, prefix)
		})
	}, nil
}

func byMethod(values []string) test {
	return func(f *flowpb.Flow) bool {
		h := f.GetL7().GetHttp()
		return h != nil && slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, h.GetMethod()) })
	}
}

func httpURL(f *flowpb.Flow) string { return f.GetL7().GetHttp().GetUrl() }

// path returns the path of a request, "" if the flow is none.
func path(f *flowpb.Flow) string {
	rest, ok := strings.CutPrefix(httpURL(f), "http://")
	if !ok {
		return rest
	}
	if at := strings.IndexByte(rest, '/'); at >= 0 {
		return rest[at:]
	}
	return ""
}

// byQuery passes questions of DNS by regular expressions of the name, which ends with a dot.
func byQuery(values []string) (test, error) {
	return byExpression(values, func(f *flowpb.Flow) bool { return f.GetL7().GetDns() != nil }, func(f *flowpb.Flow) string { return f.GetL7().GetDns().GetQuery() })
}

func isHTTP(f *flowpb.Flow) bool { return f.GetL7().GetHttp() != nil }

// byExpression passes flows of a kind by regular expressions (RE2: the time is linear in the text).
func byExpression(values []string, is func(*flowpb.Flow) bool, of func(*flowpb.Flow) string) (test, error) {
	var all []*regexp.Regexp
	for _, v := range values {
		e, err := regexp.Compile(v)
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
		all = append(all, e)
	}
	return func(f *flowpb.Flow) bool {
		return is(f) && slices.ContainsFunc(all, func(e *regexp.Regexp) bool { return e.MatchString(of(f)) })
	}, nil
}
