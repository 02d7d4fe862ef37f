package xds

import (
	"regexp"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weft-mesh/weft/internal/model"
)

func quoteMeta(s string) string { return regexp.QuoteMeta(s) }

// redirects returns the routes of a rule that redirects.
//
// The Location should not name a port that is its scheme's own. Envoy keeps the port of the request's Host if it is
// given none, so a request whose Host has a port gets a route of its own that names the port.
func (t *table) redirects(r *model.Rule) []*routev3.Route {
	scheme, port := r.Redirect.Scheme, r.Redirect.Port
	if scheme == "" {
		scheme = t.scheme
	}
	if port == 0 {
		port = t.port
		if r.Redirect.Scheme != "" {
			port = ownPort(scheme)
		}
	}
	if port != ownPort(scheme) {
		return []*routev3.Route{{Action: redirect(r, port)}}
	}
	plain := &routev3.Route{Action: redirect(r, 0)}
	if r.Redirect.Host != "" {
		return []*routev3.Route{plain}
	}
	return []*routev3.Route{{
		Match:  &routev3.RouteMatch{Headers: []*routev3.HeaderMatcher{headerMatch(":authority", matching(`.*:[0-9]+`))}},
		Action: redirect(r, port),
	}, plain}
}

func ownPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

func redirect(r *model.Rule, port uint16) *routev3.Route_Redirect {
	a := &routev3.RedirectAction{HostRedirect: r.Redirect.Host, PortRedirect: uint32(port), ResponseCode: redirectCode(r.Redirect.Status)}
	if s := r.Redirect.Scheme; s != "" {
		a.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: s}
	}
	switch c := pathChange(r.Match.Path, r.Redirect.Path); {
	case c.full != "":
		a.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: c.full}
	case c.prefix != "":
		a.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: c.prefix}
	case c.regex != nil:
		a.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: c.regex}
	}
	return &routev3.Route_Redirect{Redirect: a}
}

func redirectCode(status int) routev3.RedirectAction_RedirectResponseCode {
	switch status {
	case 301:
		return routev3.RedirectAction_MOVED_PERMANENTLY
	case 303:
		return routev3.RedirectAction_SEE_OTHER
	case 307:
		return routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		return routev3.RedirectAction_PERMANENT_REDIRECT
	}
	return routev3.RedirectAction_FOUND
}

// setRewrite changes what the backend sees.
func setRewrite(a *routev3.RouteAction, matched model.PathMatch, w *model.Rewrite) {
	if h := w.Host; h != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: h}
	}
	c := pathChange(matched, w.Path)
	a.PathRewrite, a.PrefixRewrite, a.RegexRewrite = literal(c.full), c.prefix, c.regex
}

// change has at most one of its fields set.
type change struct {
	full, prefix string
	regex        *matcher.RegexMatchAndSubstitute
}

// pathChange works on whole path elements: /foo replaced by "" or "/" makes /bar of /foo/bar, and never //bar.
func pathChange(m model.PathMatch, c *model.PathChange) change {
	switch {
	case c == nil:
		return change{}
	case c.Full != nil && *c.Full == "":
		return change{full: "/"}
	case c.Full != nil:
		return change{full: *c.Full}
	case c.Prefix == nil || m.Type != model.MatchPrefix && m.Type != "":
		return change{}
	}
	from, to := trimSlashes(m.Value), trimSlashes(*c.Prefix)
	switch {
	case from == "" && to == "":
		return change{}
	case from == "":
		return change{prefix: to + "/"}
	case to == "":
		return change{regex: &matcher.RegexMatchAndSubstitute{
			Pattern: regex("^" + regexp.QuoteMeta(from) + "/*"), Substitution: "/",
		}}
	}
	return change{prefix: to}
}
