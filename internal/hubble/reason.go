package hubble

import (
	"fmt"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"

	"github.com/weft-mesh/weft/internal/observe"
)

// reasons give Hubble's word for the reasons of the kernel's part (package datapath, Reason).
var reasons = map[string]flowpb.DropReason{
	"no ready endpoint":                                                  flowpb.DropReason_SERVICE_BACKEND_NOT_FOUND,
	"no proxy for a strict peer":                                         flowpb.DropReason_AUTH_REQUIRED,
	"plaintext to a strict workload":                                     flowpb.DropReason_UNENCRYPTED_TRAFFIC,
	"no proxy to check the policy":                                       flowpb.DropReason_DROP_EP_NOT_READY,
	"the node could not program the workload":                            flowpb.DropReason_DROP_EP_NOT_READY,
	"several pods claim the address, or its Service is over its budget":  flowpb.DropReason_INVALID_IDENTITY,
	"too many connections from addresses outside of the mesh":            flowpb.DropReason_DROP_RATE_LIMITED,
	"a request from the node that no probe or hook of the pod declares":  flowpb.DropReason_POLICY_DENIED,
	"more connections a second than one source may open; it tries again": flowpb.DropReason_DROP_RATE_LIMITED,
}

// dropReason returns Hubble's word for why a flow was refused; DROP_REASON_UNKNOWN if there is none. The summary has the
// reason as it is.
func dropReason(f *observe.Flow) flowpb.DropReason {
	if len(f.Policies) > 0 || strings.HasPrefix(f.Reason, "no policy") {
		return flowpb.DropReason_POLICY_DENIED
	}
	return reasons[f.Reason]
}

// summary says in a line what Hubble's commands show of a flow besides its ends.
func summary(f *observe.Flow) string {
	var out []string
	switch h, d := f.HTTP, f.DNS; {
	case h != nil:
		out = append(out, fmt.Sprintf("HTTP %d %dms (%s %s)", h.Status, f.Duration/time.Millisecond, h.Method, url(h)))
	case d != nil && d.Code == "":
		out = append(out, fmt.Sprintf("DNS Query %s %s", query(d), d.Type))
	case d != nil:
		out = append(out, fmt.Sprintf("DNS Answer %s %d answers in %s (Query %s %s)", d.Code, d.Answers, f.Duration.Round(time.Microsecond), query(d), d.Type))
	default:
		out = append(out, f.Protocol.String())
	}
	if f.Route != "" {
		out = append(out, f.Route)
	}
	if f.Reason != "" {
		out = append(out, f.Reason)
	}
	if len(f.Policies) > 0 {
		out = append(out, "policies "+strings.Join(f.Policies, " "))
	}
	switch {
	case f.HTTP != nil, f.DNS != nil:
	case f.Open:
		out = append(out, "opened")
	case f.Verdict == observe.Forwarded:
		out = append(out, fmt.Sprintf("closed after %s, %d bytes sent, %d received", f.Duration.Round(time.Millisecond), f.Sent, f.Received))
	}
	// Hubble's commands have no place for identities that are no numbers.
	if id := f.Source.Identity; id != "" {
		out = append(out, "from "+string(id))
	}
	if id := f.Destination.Identity; id != "" {
		out = append(out, "to "+string(id))
	}
	return strings.ToValidUTF8(strings.Join(out, ", "), "?")
}
