package gateway

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// Limits, as the schemas of the Gateway API's CRDs have them. They hold here too, for a folder has no API server.
const (
	maxPath         = 1024
	maxRegex        = 1024
	maxRegexProgram = 2000
	maxHeaderName   = 256
	maxHeaderValue  = 4096
	maxRules        = 16
	maxMatches      = 128 // of all rules together
	maxHostnames    = 16
	maxParents      = 32
	maxFilters      = 16
	maxHeaders      = 16
	maxBackends     = 16
	maxCORS         = 64
	maxWeight       = 1_000_000
	maxAttempts     = 100
)

// short makes text of unknown origin fit for a message.
func short(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

func validPort[N int32 | int](p N) bool { return p >= 1 && p <= 65535 }

func validToken(s string) bool {
	return len(s) <= maxHeaderName && httpguts.ValidHeaderFieldName(s)
}

// validHeaderName says why a name is not that of a header; "" is good.
func validHeaderName(name string) string {
	if !validToken(name) {
		return fmt.Sprintf("%q is not a header name", short(name))
	}
	return ""
}

// validHeaderValue takes what RFC 9110 section 5.5 allows.
func validHeaderValue(value string) string {
	if len(value) > maxHeaderValue || !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value) {
		return fmt.Sprintf("%q is not a header value: it is longer than %d bytes or holds a control character", short(value), maxHeaderValue)
	}
	return ""
}

// pathChars are those of RFC 3986 section 3.3, and what the Gateway API allows in paths.
var pathChars = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)

// validPath checks an Exact or PathPrefix value: one that no normalisation changes, so that what is matched here is what
// a backend sees. "" is good.
func validPath(p string) string {
	switch {
	case len(p) > maxPath:
		return fmt.Sprintf("path %q is longer than %d bytes", short(p), maxPath)
	case !strings.HasPrefix(p, "/"):
		return fmt.Sprintf("path %q does not begin with /", short(p))
	case !pathChars.MatchString(p):
		return fmt.Sprintf("path %q has a character that does not belong into a path", short(p))
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(p, bad) {
			return fmt.Sprintf("path %q contains %s", short(p), bad)
		}
	}
	for _, bad := range []string{"/..", "/."} {
		if strings.HasSuffix(p, bad) {
			return fmt.Sprintf("path %q ends in %s", short(p), bad)
		}
	}
	return ""
}

// trimPrefixPath drops the slashes at the end of a prefix, which the Gateway API ignores.
func trimPrefixPath(p string) string {
	if t := strings.TrimRight(p, "/"); t != "" {
		return t
	}
	return "/"
}

// validRegex takes what Go's RE2 syntax takes, which Envoy's RE2 takes too. "" is good.
func validRegex(r string) string {
	if r == "" || len(r) > maxRegex || !utf8.ValidString(r) || strings.ContainsAny(r, "\x00\r\n") {
		return fmt.Sprintf("regular expression %q is empty, longer than %d bytes or holds a control character", short(r), maxRegex)
	}
	if _, err := regexp.Compile(r); err != nil {
		return fmt.Sprintf("regular expression %q: %v", short(r), err)
	}
	if escape := noByte(r); escape != "" {
		return fmt.Sprintf("regular expression %q: %s is no byte, and Envoy matches bytes; write the character itself", short(r), escape)
	}
	// Envoy refuses what becomes too long a program.
	if parsed, err := syntax.Parse(r, syntax.Perl); err == nil {
		if prog, err := syntax.Compile(parsed.Simplify()); err == nil && len(prog.Inst) > maxRegexProgram {
			return fmt.Sprintf("regular expression %q: its repetitions make it too large, %d instructions of at most %d", short(r), len(prog.Inst), maxRegexProgram)
		}
	}
	return ""
}

// wideEscape finds what may be an escape of more than a byte, and what would hide one: a quotation, or another escape.
var wideEscape = regexp.MustCompile(`(?s)\\Q.*?(?:\\E|$)|\\x\{0*[0-9a-fA-F]{3,}\}|\\.`)

// noByte returns the first escape of an expression that stands for no byte, such as \x{100}; "" if there is none.
func noByte(r string) string {
	for _, e := range wideEscape.FindAllString(r, -1) {
		if digits, ok := strings.CutPrefix(e, `\x{`); ok && len(strings.TrimLeft(digits, "0")) > len("ff}") {
			return e
		}
	}
	return ""
}

// validHostname checks a hostname, with a leading "*." if wildcard says so. "" is good.
func validHostname(h string, wildcard bool) string {
	name := h
	if wildcard {
		name = strings.TrimPrefix(h, "*.")
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Sprintf("hostname %q is an address", short(h))
	}
	if len(h) > 253 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Sprintf("%q is not a hostname: lower-case labels of letters, digits and dashes, joined by dots", short(h))
	}
	return ""
}

var durationFormat = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// parseDuration reads a duration of GEP-2257.
func parseDuration(d gwv1.Duration) (time.Duration, string) {
	if len(d) > 64 || !durationFormat.MatchString(string(d)) {
		return 0, fmt.Sprintf("%q is not a duration such as 1h30m, 10s or 500ms", short(string(d)))
	}
	v, err := time.ParseDuration(string(d))
	if err != nil {
		return 0, fmt.Sprintf("%q is not a duration: %v", short(string(d)), err)
	}
	return v, ""
}

// httpRouteRef and grpcRouteRef name routes in the model.
func httpRouteRef(namespace, name string) model.ObjectRef {
	return model.ObjectRef{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: namespace, Name: name}
}

func grpcRouteRef(namespace, name string) model.ObjectRef {
	return model.ObjectRef{Group: gwv1.GroupName, Kind: "GRPCRoute", Namespace: namespace, Name: name}
}
