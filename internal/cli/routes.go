package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

type ruleRow struct {
	table string
	hosts []string
	n     int // place in the order of precedence, from 1
	rule  model.Rule
}

func printRoutes(w io.Writer, list []model.RouteTable, wide bool) error {
	var rows []ruleRow
	for _, t := range list {
		for _, v := range t.VirtualHosts {
			for i, r := range v.Rules {
				rows = append(rows, ruleRow{t.Name, v.Hosts, i + 1, r})
			}
		}
	}
	return printTable(w, rows, []column[ruleRow]{
		{head: "FRONTEND", of: func(r ruleRow) string { return r.table }},
		{head: "HOSTS", of: func(r ruleRow) string {
			if wide {
				return join(r.hosts, 0, same)
			}
			return join(r.hosts, 1, same)
		}},
		{head: "#", of: func(r ruleRow) string { return fmt.Sprint(r.n) }},
		{head: "MATCH", of: func(r ruleRow) string { return match(r.rule) }},
		{head: "ACTION", of: func(r ruleRow) string { return action(r.rule) }},
		{head: "FROM", of: func(r ruleRow) string {
			s := fmt.Sprintf("%s[%d]", r.rule.Route, r.rule.Index)
			if r.rule.Name != "" {
				s += " " + r.rule.Name
			}
			return s
		}},
		{head: "CHANGES", wide: true, of: func(r ruleRow) string { return changes(r.rule) }},
	}, wide)
}

// match says in words which requests a rule takes.
func match(r model.Rule) string {
	m := r.Match
	var out []string
	if r.CallerNamespace != "" {
		out = append(out, "callers in "+r.CallerNamespace)
	}
	if m.GRPC {
		out = append(out, "gRPC")
	}
	if m.Method != "" {
		out = append(out, m.Method)
	}
	out = append(out, pathMatch(m.Path))
	for _, h := range m.Headers {
		out = append(out, "header "+valueMatch(h))
	}
	for _, q := range m.Query {
		out = append(out, "query "+valueMatch(q))
	}
	return strings.Join(out, ", ")
}

func pathMatch(p model.PathMatch) string {
	switch {
	case p.Type == "" || (p.Type == model.MatchPrefix && p.Value == "/"):
		return "any path"
	case p.Type == model.MatchPrefix:
		return strings.TrimSuffix(p.Value, "/") + "/*"
	case p.Type == model.MatchRegex:
		return "~" + p.Value
	}
	return p.Value
}

func valueMatch(v model.ValueMatch) string {
	if v.Type == model.MatchRegex {
		return v.Name + "~" + v.Value
	}
	return v.Name + "=" + v.Value
}

// action says what becomes of a request.
func action(r model.Rule) string {
	switch {
	case r.Redirect != nil:
		return redirect(*r.Redirect)
	case r.Status != 0:
		return fmt.Sprintf("answer %d", r.Status)
	}
	var total uint64
	for _, b := range r.Backends {
		total += uint64(b.Weight)
	}
	return join(r.Backends, 0, func(b model.Backend) string { return backend(b, total) })
}

func backend(b model.Backend, total uint64) string {
	s := fmt.Sprintf("%s/%s:%d", b.Namespace, b.Name, b.Port)
	if total > 0 && uint64(b.Weight) != total {
		s += fmt.Sprintf(" %.3g%%", 100*float64(b.Weight)/float64(total))
	}
	if b.Invalid {
		s += " (invalid: answers 500)"
	}
	return s
}

func redirect(r model.Redirect) string {
	s := fmt.Sprintf("redirect %d to ", r.Status)
	if r.Scheme != "" {
		s += r.Scheme + "://"
	}
	s += cmp.Or(r.Host, "same host")
	if r.Port != 0 {
		s += fmt.Sprintf(":%d", r.Port)
	}
	return s + pathChange(r.Path)
}

func pathChange(p *model.PathChange) string {
	switch {
	case p == nil:
		return ""
	case p.Full != nil:
		return " path " + *p.Full
	case p.Prefix != nil:
		return " prefix " + *p.Prefix
	}
	return ""
}

// changes lists what else a rule does.
func changes(r model.Rule) string {
	out := append(headerChange("request", r.RequestHeaders), headerChange("response", r.ResponseHeaders)...)
	if w := r.Rewrite; w != nil {
		out = append(out, strings.TrimSpace("rewrite "+w.Host+pathChange(w.Path)))
	}
	for _, m := range r.Mirrors {
		out = append(out, fmt.Sprintf("mirror %d/%d to %s", m.Numerator, m.Denominator, backend(m.Backend, 0)))
	}
	if r.Timeout != nil {
		out = append(out, "timeout "+r.Timeout.String())
	}
	if r.BackendTimeout != nil {
		out = append(out, "a try "+r.BackendTimeout.String())
	}
	if r.Retry != nil {
		out = append(out, fmt.Sprintf("retry %d times on %s", r.Retry.Attempts, cmp.Or(join(r.Retry.Codes, 0, func(c int) string { return fmt.Sprint(c) }), "connection errors")))
	}
	if r.CORS != nil {
		out = append(out, "CORS "+join(r.CORS.AllowOrigins, 0, same))
	}
	for _, b := range r.Backends {
		for _, c := range append(headerChange("request", b.RequestHeaders), headerChange("response", b.ResponseHeaders)...) {
			out = append(out, b.Name+" "+c)
		}
		if w := b.Rewrite; w != nil {
			out = append(out, strings.TrimSpace(b.Name+" rewrite "+w.Host+pathChange(w.Path)))
		}
	}
	return strings.Join(out, "; ")
}

func headerChange(of string, h model.HeaderChange) []string {
	var out []string
	for _, s := range h.Set {
		out = append(out, of+" set "+s.Name+"="+s.Value)
	}
	for _, a := range h.Add {
		out = append(out, of+" add "+a.Name+"="+a.Value)
	}
	for _, n := range h.Remove {
		out = append(out, of+" remove "+n)
	}
	return out
}
