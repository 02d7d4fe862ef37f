package gateway

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// guards reports whether a filter may decide who is let through: one of another party's making, or one that asks a server.
// Neither is supported. A rule or a backend with one must not serve without it, so it answers 500.
func guards(t gwv1.HTTPRouteFilterType) bool {
	return t == gwv1.HTTPRouteFilterExternalAuth || t == gwv1.HTTPRouteFilterExtensionRef
}

// guard reports whether a filter, or a field that is not known, guards the rule, and notes which filters do.
func (r *resolver) guard(at string, in []gwv1.HTTPRouteFilter) bool {
	found := len(r.unknown) > 0
	for i, f := range in {
		if guards(f.Type) {
			found = true
			r.refs.add(string(gwv1.RouteReasonInvalidKind), fmt.Sprintf("%s.filters[%d]: filter %s is not supported; the rule answers 500", at, i, f.Type))
		}
	}
	return found
}

// filters applies a rule's filters.
func (r *resolver) filters(rule *model.Rule, at string, in []gwv1.HTTPRouteFilter, prefixOnly bool) *fault {
	if len(in) > maxFilters {
		return unsupported("%s: more than %d filters", at, maxFilters)
	}
	seen := map[gwv1.HTTPRouteFilterType]bool{}
	for i, filter := range in {
		where := fmt.Sprintf("%s.filters[%d]", at, i)
		if seen[filter.Type] && filter.Type != gwv1.HTTPRouteFilterRequestMirror {
			return unsupported("%s: filter %s is there twice", where, short(string(filter.Type)))
		}
		seen[filter.Type] = true
		if f := r.filter(rule, where, filter, prefixOnly); f != nil {
			return f
		}
	}
	if rule.Redirect != nil && rule.Rewrite != nil {
		return &fault{reason: string(gwv1.RouteReasonIncompatibleFilters), message: at + ": RequestRedirect and URLRewrite cannot be used together"}
	}
	return nil
}

func (r *resolver) filter(rule *model.Rule, at string, in gwv1.HTTPRouteFilter, prefixOnly bool) (f *fault) {
	missing := unsupported("%s: filter %s has no settings", at, short(string(in.Type)))
	switch in.Type {
	case gwv1.HTTPRouteFilterRequestHeaderModifier:
		if in.RequestHeaderModifier == nil {
			return missing
		}
		rule.RequestHeaders, f = requestChange(at, in.RequestHeaderModifier)
	case gwv1.HTTPRouteFilterResponseHeaderModifier:
		if in.ResponseHeaderModifier == nil {
			return missing
		}
		rule.ResponseHeaders, f = headerChange(at, in.ResponseHeaderModifier)
	case gwv1.HTTPRouteFilterRequestRedirect:
		if in.RequestRedirect == nil {
			return missing
		}
		rule.Redirect, f = redirect(at, in.RequestRedirect, prefixOnly)
	case gwv1.HTTPRouteFilterURLRewrite:
		if in.URLRewrite == nil {
			return missing
		}
		rule.Rewrite, f = rewrite(at, in.URLRewrite, prefixOnly)
	case gwv1.HTTPRouteFilterRequestMirror:
		if in.RequestMirror == nil {
			return missing
		}
		f = r.mirror(rule, at, in.RequestMirror)
	case gwv1.HTTPRouteFilterCORS:
		if in.CORS == nil {
			return missing
		}
		rule.CORS, f = cors(at, in.CORS)
	case gwv1.HTTPRouteFilterExternalAuth, gwv1.HTTPRouteFilterExtensionRef: // see guard
	default:
		return unknownType("%s: filter type %q is not known", at, short(string(in.Type)))
	}
	return f
}

// backendFilter applies a filter to one backend alone: it changes headers, or what the backend sees of the URL.
func (r *resolver) backendFilter(b *model.Backend, at string, in gwv1.HTTPRouteFilter, prefixOnly bool) (f *fault) {
	switch in.Type {
	case gwv1.HTTPRouteFilterExternalAuth, gwv1.HTTPRouteFilterExtensionRef:
		r.refs.add(string(gwv1.RouteReasonInvalidKind), fmt.Sprintf("%s: filter %s is not supported; the backend's requests are answered 500", at, in.Type))
		b.Invalid = true
		return nil
	case gwv1.HTTPRouteFilterRequestHeaderModifier:
		if in.RequestHeaderModifier != nil {
			b.RequestHeaders, f = requestChange(at, in.RequestHeaderModifier)
			return f
		}
	case gwv1.HTTPRouteFilterResponseHeaderModifier:
		if in.ResponseHeaderModifier != nil {
			b.ResponseHeaders, f = headerChange(at, in.ResponseHeaderModifier)
			return f
		}
	case gwv1.HTTPRouteFilterURLRewrite:
		if in.URLRewrite != nil {
			b.Rewrite, f = rewrite(at, in.URLRewrite, prefixOnly)
			return f
		}
	case gwv1.HTTPRouteFilterRequestRedirect, gwv1.HTTPRouteFilterRequestMirror, gwv1.HTTPRouteFilterCORS:
	default:
		return unknownType("%s: filter type %q is not known", at, short(string(in.Type)))
	}
	return unsupported("%s: filter %q is not supported on a backend", at, short(string(in.Type)))
}

// requestChange is a change of a request's headers.
func requestChange(at string, in *gwv1.HTTPHeaderFilter) (model.HeaderChange, *fault) {
	out, f := headerChange(at, in)
	if h := out.Reserved(); f == nil && h != "" {
		f = unsupported("%s: header %s is for the mesh itself and cannot be changed", at, h)
	}
	return out, f
}

func headerChange(at string, in *gwv1.HTTPHeaderFilter) (model.HeaderChange, *fault) {
	var out model.HeaderChange
	if len(in.Set) > maxHeaders || len(in.Add) > maxHeaders || len(in.Remove) > maxHeaders {
		return out, unsupported("%s: more than %d headers", at, maxHeaders)
	}
	list := func(headers []gwv1.HTTPHeader) ([]model.Header, *fault) {
		var list []model.Header
		for _, h := range headers {
			name := strings.ToLower(string(h.Name))
			if f := changeableHeader(at, name); f != nil {
				return nil, f
			}
			if err := validHeaderValue(h.Value); err != "" {
				return nil, unsupported("%s: header %s: %s", at, name, err)
			}
			list = append(list, model.Header{Name: name, Value: h.Value})
		}
		return list, nil
	}
	var f *fault
	if out.Set, f = list(in.Set); f != nil {
		return out, f
	}
	if out.Add, f = list(in.Add); f != nil {
		return out, f
	}
	for _, name := range in.Remove {
		name = strings.ToLower(name)
		if f := changeableHeader(at, name); f != nil {
			return out, f
		}
		out.Remove = append(out.Remove, name)
	}
	return out, nil
}

// changeableHeader refuses headers that frame the message, and Host, which Envoy does not let header changes touch.
func changeableHeader(at, name string) *fault {
	if err := validHeaderName(name); err != "" {
		return unsupported("%s: %s", at, err)
	}
	switch name {
	case "host":
		return unsupported("%s: header host cannot be changed by a header filter; use URLRewrite with a hostname", at)
	case "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "proxy-connection":
		return unsupported("%s: header %s belongs to the connection and cannot be changed", at, name)
	}
	return nil
}

func redirect(at string, in *gwv1.HTTPRequestRedirectFilter, prefixOnly bool) (*model.Redirect, *fault) {
	out := &model.Redirect{Status: 302}
	if in.Scheme != nil {
		if *in.Scheme != "http" && *in.Scheme != "https" {
			return nil, unsupported("%s: scheme %q is neither http nor https", at, short(*in.Scheme))
		}
		out.Scheme = *in.Scheme
	}
	if in.Hostname != nil {
		if err := validHostname(string(*in.Hostname), false); err != "" {
			return nil, unsupported("%s: %s", at, err)
		}
		out.Host = string(*in.Hostname)
	}
	if in.Port != nil {
		if !validPort(*in.Port) {
			return nil, unsupported("%s: port %d is not between 1 and 65535", at, *in.Port)
		}
		out.Port = uint16(*in.Port)
	}
	if in.StatusCode != nil {
		switch *in.StatusCode {
		case 301, 302, 303, 307, 308:
			out.Status = *in.StatusCode
		default:
			return nil, unsupported("%s: status code %d is not one of 301, 302, 303, 307, 308", at, *in.StatusCode)
		}
	}
	var f *fault
	out.Path, f = pathChange(at, in.Path, prefixOnly)
	return out, f
}

func rewrite(at string, in *gwv1.HTTPURLRewriteFilter, prefixOnly bool) (*model.Rewrite, *fault) {
	out := &model.Rewrite{}
	if in.Hostname != nil {
		if err := validHostname(string(*in.Hostname), false); err != "" {
			return nil, unsupported("%s: %s", at, err)
		}
		out.Host = string(*in.Hostname)
	}
	var f *fault
	out.Path, f = pathChange(at, in.Path, prefixOnly)
	return out, f
}

func pathChange(at string, in *gwv1.HTTPPathModifier, prefixOnly bool) (*model.PathChange, *fault) {
	if in == nil {
		return nil, nil
	}
	var value *string
	switch in.Type {
	case gwv1.FullPathHTTPPathModifier:
		value = in.ReplaceFullPath
	case gwv1.PrefixMatchHTTPPathModifier:
		value = in.ReplacePrefixMatch
		if !prefixOnly {
			return nil, unsupported("%s: ReplacePrefixMatch needs that every match of the rule is a PathPrefix", at)
		}
	default:
		return nil, unsupported("%s: path modifier %q is not known", at, short(string(in.Type)))
	}
	if value == nil {
		return nil, unsupported("%s: %s has no value", at, in.Type)
	}
	if *value != "" {
		if err := validPath(*value); err != "" {
			return nil, unsupported("%s: %s", at, err)
		}
	}
	if in.Type == gwv1.FullPathHTTPPathModifier {
		if *value == "" {
			value = new("/") // no path at all would keep the request's
		}
		return &model.PathChange{Full: value}, nil
	}
	return &model.PathChange{Prefix: value}, nil
}

func (r *resolver) mirror(rule *model.Rule, at string, in *gwv1.HTTPRequestMirrorFilter) *fault {
	m := model.Mirror{Numerator: 100, Denominator: 100}
	switch {
	case in.Percent != nil && in.Fraction != nil:
		return unsupported("%s: percent and fraction cannot be used together", at)
	case in.Percent != nil:
		if *in.Percent < 0 || *in.Percent > 100 {
			return unsupported("%s: percent %d is not between 0 and 100", at, *in.Percent)
		}
		m.Numerator = uint32(*in.Percent)
	case in.Fraction != nil:
		var f *fault
		if m.Numerator, m.Denominator, f = fraction(at, in.Fraction); f != nil {
			return f
		}
	}
	// The rule works without its mirror, so a mirror that cannot be resolved is left out and reported.
	if m.Backend = r.backend(at, in.BackendRef); m.Backend.Invalid || m.Numerator == 0 {
		return nil
	}
	m.Backend.Weight = 1
	rule.Mirrors = append(rule.Mirrors, m)
	return nil
}

// fraction brings a fraction to a denominator that Envoy has.
func fraction(at string, in *gwv1.Fraction) (numerator, denominator uint32, f *fault) {
	n, d := int64(in.Numerator), int64(100)
	if in.Denominator != nil {
		d = int64(*in.Denominator)
	}
	if d < 1 || n < 0 || n > d {
		return 0, 0, unsupported("%s: %d/%d is not a fraction between 0 and 1", at, n, d)
	}
	for _, known := range []int64{100, 10_000, 1_000_000} {
		if known%d == 0 {
			return uint32(n * (known / d)), uint32(known), nil
		}
	}
	return uint32(math.Round(float64(n) / float64(d) * 1_000_000)), 1_000_000, nil
}

// corsOrigin is what the Gateway API allows as an origin.
var corsOrigin = regexp.MustCompile(`^(\*|https?://((\*\.)?([a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(:[0-9]{1,5})?)$`)

func cors(at string, in *gwv1.HTTPCORSFilter) (*model.CORS, *fault) {
	out := &model.CORS{AllowCredentials: deref(in.AllowCredentials), MaxAge: 5 * time.Second}
	if len(in.AllowOrigins) > maxCORS || len(in.AllowMethods) > maxCORS || len(in.AllowHeaders) > maxCORS || len(in.ExposeHeaders) > maxCORS {
		return nil, unsupported("%s: a list has more than %d entries", at, maxCORS)
	}
	for _, o := range in.AllowOrigins {
		if len(o) > 253 || !corsOrigin.MatchString(string(o)) {
			return nil, unsupported("%s: %q is not an origin", at, short(string(o)))
		}
		out.AllowOrigins = append(out.AllowOrigins, string(o))
	}
	for _, m := range in.AllowMethods {
		if !validToken(string(m)) {
			return nil, unsupported("%s: %q is not a method", at, short(string(m)))
		}
		out.AllowMethods = append(out.AllowMethods, string(m))
	}
	var f *fault
	if out.AllowHeaders, f = corsHeaders(at, in.AllowHeaders); f != nil {
		return nil, f
	}
	if out.ExposeHeaders, f = corsHeaders(at, in.ExposeHeaders); f != nil {
		return nil, f
	}
	if in.MaxAge < 0 {
		return nil, unsupported("%s: maxAge %d is negative", at, in.MaxAge)
	}
	if in.MaxAge > 0 {
		out.MaxAge = time.Duration(in.MaxAge) * time.Second
	}
	return out, nil
}

func corsHeaders(at string, in []gwv1.HTTPHeaderName) ([]string, *fault) {
	var out []string
	for _, h := range in {
		if !validToken(string(h)) {
			return nil, unsupported("%s: %q is not a header name", at, short(string(h)))
		}
		out = append(out, string(h))
	}
	return out, nil
}
