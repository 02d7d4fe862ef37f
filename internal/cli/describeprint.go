package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// shownRules and shownEndpoints bound what is printed of them; weft config has all.
const (
	shownRules     = 50
	shownEndpoints = 20
)

// page prints a description in sections.
type page struct {
	io.Writer
	err error
	now time.Time
}

func printDescription(w io.Writer, d *described, now time.Time) error {
	p := &page{Writer: w, now: now}
	p.field(d.Object.Kind, d.Object.Key())
	switch {
	case d.Pod != nil:
		p.pod(d.Pod)
	case d.Service != nil:
		p.service(d.Service)
	case d.Gateway != nil:
		p.gateway(d.Gateway, d.Status)
	case d.Route != nil:
		p.route(d)
	}
	p.rules(d.Rules)
	p.refusals(d.Refusals, d.local)
	p.problems(d.Problems)
	if d.More > 0 {
		fmt.Fprintf(p, "\n%d rows had no room in the answer: see weft config\n", d.More)
	}
	return p.err
}

// field prints a line, unless there is nothing to say.
func (p *page) field(name, value string) {
	if value != "" {
		fmt.Fprintf(p, "%-16s%s\n", name+":", printable(value))
	}
}

// listed prints a table under a title, unless it is empty. more counts the rows that are left out.
func listed[T any](p *page, title string, rows []T, more int, columns ...column[T]) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(p, "\n%s\n", title)
	if err := printTable(p, rows, columns, false); err != nil && p.err == nil {
		p.err = err
	}
	if more > 0 {
		fmt.Fprintf(p, "and %d more: see weft config\n", more)
	}
}

func first[T any](all []T, most int) ([]T, int) {
	n := min(len(all), most)
	return all[:n], len(all) - n
}

func (p *page) pod(d *describe.Pod) {
	p.field("Node", d.Node)
	p.field("Owner", d.Owner.String())
	p.field("Addresses", join(d.Addresses, 0, stringer))
	p.field("Contested", join(d.Contested, 0, stringer))
	p.field("mTLS mode", d.MTLS.String())
	p.field("Identity", string(d.Identity))
	p.certificate(d.Certificate)
	p.field("Probes and hooks", join(d.Probes, 0, model.Probe.String))
	for _, dir := range []struct {
		title string
		paths []describe.Path
	}{{"Inbound", d.Inbound}, {"Outbound", d.Outbound}} {
		listed(p, dir.title, dir.paths, 0,
			column[describe.Path]{head: "PEERS", of: func(x describe.Path) string { return x.Of }},
			column[describe.Path]{head: "WAY", of: func(x describe.Path) string { return x.Way }},
			column[describe.Path]{head: "OUTCOME", of: func(x describe.Path) string { return x.Outcome }})
	}
	listed(p, "Services", d.Services, 0,
		column[describe.Membership]{head: "SERVICE", of: func(m describe.Membership) string {
			return fmt.Sprintf("%s:%d/%s", m.Service, m.Port, m.Protocol)
		}},
		column[describe.Membership]{head: "ENDPOINT", of: func(m describe.Membership) string { return m.Address.String() }},
		column[describe.Membership]{head: "TAKEN BY", of: func(m describe.Membership) string { return takenBy(m.L7, m.Detect) }},
		column[describe.Membership]{head: "STATE", of: func(m describe.Membership) string { return endpointState(m.Terminating, false) }})
	if d.Policy != nil {
		fmt.Fprintf(p, "\nPolicies\n")
		if err := printPolicies(p, []api.WorkloadPolicy{{Workload: d.Key(), Policies: d.Policy.Names, Rules: d.Policy.Rules}}, false); err != nil {
			p.err = err
		}
	}
}

func (p *page) certificate(c *model.Certified) {
	switch {
	case c == nil:
	case c.NotAfter.IsZero():
		p.field("Certificate", "none")
	default:
		text := "until " + stamp(c.NotAfter)
		if !c.RenewAt.IsZero() {
			text += ", renewed at " + stamp(c.RenewAt)
		}
		if !c.Valid(p.now) {
			text += ": expired"
		}
		p.field("Certificate", text)
	}
}

func takenBy(l7, detect bool) string {
	switch {
	case detect:
		return "Envoy, as HTTP or bytes"
	case l7:
		return "Envoy"
	}
	return "kernel"
}

func endpointState(terminating, notGranted bool) string {
	var out []string
	if terminating {
		out = append(out, "terminating")
	}
	if notGranted {
		out = append(out, "not granted")
	}
	if out == nil {
		return "ready"
	}
	return strings.Join(out, ", ")
}

// portEndpoint is an endpoint of a Service's port.
type portEndpoint struct {
	port describe.Port
	model.Endpoint
}

func (p *page) service(d *describe.Service) {
	p.field("Addresses", join(d.Addresses, 0, stringer))
	p.field("Not balanced", join(d.Refused, 0, stringer))
	if d.Affinity > 0 {
		p.field("Affinity", "by client, "+d.Affinity.String())
	}
	p.field("Backend of", join(d.Routes, 10, same))
	listed(p, "Ports", d.Ports, 0,
		column[describe.Port]{head: "PORT", of: portName},
		column[describe.Port]{head: "NAME", of: func(x describe.Port) string { return x.Name }},
		column[describe.Port]{head: "PROTOCOL", of: func(x describe.Port) string { return x.AppProtocol }},
		column[describe.Port]{head: "TAKEN BY", of: func(x describe.Port) string { return takenBy(x.L7, x.Detect) }},
		column[describe.Port]{head: "TLS TO BACKENDS", of: func(x describe.Port) string { return x.BackendTLS }},
		column[describe.Port]{head: "ENDPOINTS", of: func(x describe.Port) string { return fmt.Sprint(len(x.Endpoints)) }})
	var all []portEndpoint
	for _, port := range d.Ports {
		for _, e := range port.Endpoints {
			all = append(all, portEndpoint{port, e})
		}
	}
	shown, more := first(all, shownEndpoints)
	listed(p, "Endpoints", shown, more,
		column[portEndpoint]{head: "PORT", of: func(e portEndpoint) string { return portName(e.port) }},
		column[portEndpoint]{head: "ADDRESS", of: func(e portEndpoint) string { return e.Address.String() }},
		column[portEndpoint]{head: "POD", of: func(e portEndpoint) string { return e.Workload }},
		column[portEndpoint]{head: "NODE", of: func(e portEndpoint) string { return e.Node }},
		column[portEndpoint]{head: "MTLS", of: func(e portEndpoint) string { return e.MTLS.String() }},
		column[portEndpoint]{head: "STATE", of: func(e portEndpoint) string { return endpointState(e.Terminating, e.NotGranted) }})
	p.streams(d.Streams)
}

func portName(x describe.Port) string { return fmt.Sprintf("%d/%s", x.Port, x.Protocol) }

func (p *page) gateway(d *describe.Gateway, status *model.Status) {
	p.field("Addresses", join(d.Addresses, 0, stringer))
	p.field("Identity", string(d.Identity))
	p.certificate(d.Certificate)
	p.field("To backends", d.BackendCertificate)
	p.field("Traces", traces(d.Tracing))
	if status != nil {
		p.field("Conditions", conditions(status.Conditions))
	}
	if len(d.Ports) > 0 {
		fmt.Fprintf(p, "\nListeners\n")
		if err := printGateways(p, []model.Gateway{*d.Gateway}, false); err != nil {
			p.err = err
		}
	}
	listed(p, "Certificates", d.Certificates, 0,
		column[describe.Certificate]{head: "NAME", of: func(c describe.Certificate) string { return c.Name }},
		column[describe.Certificate]{head: "NAMES", of: func(c describe.Certificate) string { return join(c.Names, 3, same) }},
		column[describe.Certificate]{head: "NOT AFTER", of: func(c describe.Certificate) string { return stamp(c.NotAfter) }},
		column[describe.Certificate]{head: "ERROR", of: func(c describe.Certificate) string { return c.Error }})
	listed(p, "Announced", d.Announced, 0,
		column[model.Announcement]{head: "ADDRESS", of: func(a model.Announcement) string { return a.Address.String() }},
		column[model.Announcement]{head: "NODE", of: func(a model.Announcement) string { return a.Node }})
	p.streams(d.Streams)
}

// traces says which policy is in force for a Gateway, and where spans go; "" without a policy.
func traces(t *model.Tracing) string {
	switch {
	case t == nil:
		return ""
	case t.Off:
		return "none, by XTelemetryPolicy " + model.Key(t.Policy.Namespace, t.Policy.Name)
	case t.Collector == nil:
		return "as the mesh's, by XTelemetryPolicy " + model.Key(t.Policy.Namespace, t.Policy.Name)
	}
	text := fmt.Sprintf("to %s/%s:%d, by XTelemetryPolicy %s", t.Collector.Namespace, t.Collector.Service, t.Collector.Port, model.Key(t.Policy.Namespace, t.Policy.Name))
	if t.Sampling != nil {
		text += fmt.Sprintf(", %.4g %% of requests", *t.Sampling)
	}
	if t.FollowParent {
		text += ", others as their clients decide"
	}
	return text
}

// conditions says which hold, and with their reasons those that fail.
func conditions(all []model.Condition) string {
	return join(all, 0, func(c model.Condition) string {
		if c.Fails() {
			return fmt.Sprintf("%s=%s (%s)", c.Type, trueOrFalse(c.Status), c.Reason)
		}
		return c.Type + "=" + trueOrFalse(c.Status)
	})
}

func (p *page) route(d *described) {
	if s := d.Status; s != nil {
		listed(p, "Parents", s.Parents, 0,
			column[model.ParentStatus]{head: "PARENT", of: func(x model.ParentStatus) string { return x.String() }},
			column[model.ParentStatus]{head: "CONDITIONS", of: func(x model.ParentStatus) string { return conditions(x.Conditions) }})
	}
	listed(p, "Backends", d.Route.Backends, 0, backendColumns(func(b describe.Backend) describe.Backend { return b })...)
	p.streams(d.Route.Streams)
}

// backendColumns are of what holds a backend.
func backendColumns[T any](of func(T) describe.Backend) []column[T] {
	return []column[T]{
		{head: "BACKEND", of: func(x T) string { b := of(x); return fmt.Sprintf("%s/%s:%d", b.Namespace, b.Name, b.Port) }},
		{head: "WEIGHT", of: func(x T) string { return fmt.Sprint(of(x).Weight) }},
		{head: "ENDPOINTS", of: func(x T) string {
			switch {
			case of(x).Invalid:
				return "invalid"
			case of(x).Hidden:
				return "not shown"
			}
			return fmt.Sprint(of(x).Endpoints)
		}},
	}
}

// streamBackend is a backend of a listener's route.
type streamBackend struct {
	stream  describe.Stream
	backend describe.Backend
}

func (p *page) streams(all []describe.Stream) {
	var rows []streamBackend
	for _, s := range all {
		for _, b := range s.Backends {
			rows = append(rows, streamBackend{s, b})
		}
	}
	shown, more := first(rows, shownRules)
	listed(p, "Connections", shown, more, slices.Concat([]column[streamBackend]{
		{head: "LISTENER", of: func(s streamBackend) string {
			if s.stream.Service != "" {
				at := fmt.Sprintf("Service %s:%d", s.stream.Service, s.stream.Port)
				if s.stream.CallerNamespace != "" {
					at += " for callers in " + s.stream.CallerNamespace
				}
				return at
			}
			return fmt.Sprintf("%s:%d %s", s.stream.Gateway, s.stream.Port, s.stream.Listener)
		}},
		{head: "NAME", of: func(s streamBackend) string { return s.stream.Hostname }},
		{head: "ROUTE", of: func(s streamBackend) string { return s.stream.Route.String() }},
	}, backendColumns(func(s streamBackend) describe.Backend { return s.backend }))...)
}

func (p *page) rules(all []describe.Rule) {
	shown, more := first(all, shownRules)
	listed(p, "Rules in effect, the first that matches wins", shown, more,
		column[describe.Rule]{head: "AT", of: func(r describe.Rule) string { return r.Table }},
		column[describe.Rule]{head: "HOSTS", of: func(r describe.Rule) string { return join(r.Hosts, 1, same) }},
		column[describe.Rule]{head: "#", of: func(r describe.Rule) string { return fmt.Sprint(r.Place) }},
		column[describe.Rule]{head: "MATCH", of: func(r describe.Rule) string { return match(r.Rule) }},
		column[describe.Rule]{head: "ACTION", of: func(r describe.Rule) string { return action(r.Rule) }},
		column[describe.Rule]{head: "FROM", of: func(r describe.Rule) string { return fmt.Sprintf("%s[%d]", r.Rule.Route, r.Rule.Index) }},
		column[describe.Rule]{head: "LOSES TO", of: func(r describe.Rule) string { return r.LosesTo }})
}

// refusals prints the last ones; oneNode says that all are of the node that was asked.
func (p *page) refusals(all []refusal, oneNode bool) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(p, "\nLast connections that were refused or failed\n")
	printer := flowPrinter{date: true, oneNode: oneNode}
	printer.to(p, "wide")
	for _, r := range all {
		if err := printer.print(r.Node, observe.Event{Flow: r.Flow}); err != nil && p.err == nil {
			p.err = err
		}
	}
}

func (p *page) problems(all []describe.Problem) {
	if len(all) == 0 {
		fmt.Fprintf(p, "\nProblems: none\n")
		return
	}
	fmt.Fprintf(p, "\nProblems\n")
	for _, x := range all {
		fmt.Fprintf(p, "- %s\n", printable(x.What))
		if x.Remedy != "" {
			fmt.Fprintf(p, "    %s\n", printable(x.Remedy))
		}
	}
}
