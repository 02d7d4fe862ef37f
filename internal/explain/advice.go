package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

func who(peer model.Identity) string {
	return cmp.Or(string(peer), "a client without an identity")
}

func policyNames(p *model.Policy) string {
	if len(p.Names) == 1 {
		return "AuthorizationPolicy " + p.Names[0]
	}
	return "AuthorizationPolicies " + strings.Join(p.Names, ", ")
}

// ruleText says what a rule allows.
func ruleText(r *model.PolicyRule) string {
	var out []string
	if r.Sources == nil {
		out = append(out, "anybody")
	}
	for _, s := range r.Sources {
		if s.Namespace != "" {
			out = append(out, "namespace "+s.Namespace)
		} else {
			out = append(out, string(s.Identity))
		}
	}
	text := "allows " + strings.Join(out, " or ")
	if len(r.Ports) > 0 {
		text += " on port " + strings.ReplaceAll(joined(r.Ports), ", ", " or ")
	}
	var requests []string
	for _, h := range r.HTTP {
		requests = append(requests, requestText(h))
	}
	if len(requests) > 0 {
		text += ", " + strings.Join(requests, " or ")
	}
	return text
}

func requestText(h model.HTTPRule) string {
	text := strings.Join(h.Methods, "|")
	var paths []string
	for _, p := range h.Paths {
		switch p.Type {
		case model.MatchExact:
			paths = append(paths, p.Value)
		case model.MatchRegex:
			paths = append(paths, "~"+p.Value)
		default:
			paths = append(paths, strings.TrimRight(p.Value, "/")+"/*")
		}
	}
	return strings.TrimSpace(cmp.Or(text, "any method") + " " + cmp.Or(strings.Join(paths, "|"), "any path"))
}

// clearReason says why a connection in the clear is not authenticated.
func clearReason(a *Arrival, w *model.Workload) string {
	if w.Identity == "" {
		return fmt.Sprintf("Pod %s has no identity", w.Key())
	}
	return fmt.Sprintf("Pod %s has no identity", a.From)
}

// identityAdvice says how a refused client in the clear gets in. from is nil if its pod is not known.
func identityAdvice(from *model.Workload, name string, to *model.Workload) []string {
	var out []string
	if from == nil || from.Identity == "" {
		out = append(out, fmt.Sprintf("label the namespace of Pod %s, or the pod, weft.io/mtls: permissive (or strict): it then has an identity", name))
	}
	return append(out, fmt.Sprintf("label Pod %s weft.io/mtls: permissive: it then takes connections in the clear too", to.Key()))
}

// encryptAdvice says how a connection in the clear becomes an authenticated one.
func encryptAdvice(from *model.Workload, name string, to *model.Workload) []string {
	var without []string
	if from == nil || from.Identity == "" {
		without = append(without, name)
	}
	if to.Identity == "" {
		without = append(without, to.Key())
	}
	if len(without) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("label %s weft.io/mtls: permissive or strict: the connection is then encrypted and both ends are authenticated", pods(without))}
}

func pods(names []string) string {
	if len(names) == 1 {
		return "Pod " + names[0]
	}
	return "Pods " + strings.Join(names, " and ")
}

// policyAdvice names the rule that is nearest to allowing an arrival, and what it would have to allow.
func policyAdvice(a *Arrival, w *model.Workload) []string {
	var best []string
	at := -1
	for i := range w.Policy.Rules {
		if missing := lacks(&w.Policy.Rules[i], a); at < 0 || len(missing) < len(best) {
			best, at = missing, i
		}
	}
	if at < 0 {
		return []string{policyNames(w.Policy) + " has no valid rule and refuses everything: add one"}
	}
	return []string{fmt.Sprintf("the nearest rule of %s %s; it would have to allow %s", policyNames(w.Policy), ruleText(&w.Policy.Rules[at]), strings.Join(best, " and "))}
}

// lacks says what a rule does not allow of an arrival.
func lacks(r *model.PolicyRule, a *Arrival) []string {
	var out []string
	if !r.CoversPeer(a.Peer) {
		out = append(out, who(a.Peer))
	}
	if !r.CoversPort(a.Port) {
		out = append(out, fmt.Sprintf("port %d", a.Port))
	}
	if len(r.HTTP) == 0 || a.Request == nil {
		return out
	}
	path, _ := a.Request.split()
	if r.CoversRequest(a.Request.Method, path) {
		return out
	}
	if !slices.ContainsFunc(r.HTTP, func(h model.HTTPRule) bool { return h.CoversMethod(a.Request.Method) }) {
		out = append(out, "the method "+a.Request.Method)
	}
	if !slices.ContainsFunc(r.HTTP, func(h model.HTTPRule) bool { return h.CoversPath(path) }) {
		out = append(out, "the path "+path)
	}
	return out
}
