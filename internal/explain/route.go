package explain

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// Route is the rule that a request meets.
type Route struct {
	Table string      `json:"table"`
	Hosts []string    `json:"hosts"` // of the virtual host
	Place int         `json:"place"` // of the rule in the order of precedence, from 1
	Rule  *model.Rule `json:"rule"`
}

// findRule returns the rule of a table that a request of a caller in a namespace meets; nil if none matches.
func findRule(t *model.RouteTable, r *Request, callerNamespace string) *Route {
	h := virtualHost(t.VirtualHosts, r.Host)
	if h == nil {
		return nil
	}
	for i := range h.Rules {
		if matches(&h.Rules[i], r, callerNamespace) {
			return &Route{Table: t.Name, Hosts: h.Hosts, Place: i + 1, Rule: &h.Rules[i]}
		}
	}
	return nil
}

// virtualHost returns the one with the most specific host: an exact name, then the longest suffix, then "*".
func virtualHost(all []model.VirtualHost, host string) *model.VirtualHost {
	host = hostname(host)
	best, length := (*model.VirtualHost)(nil), -1
	for i := range all {
		for _, h := range all[i].Hosts {
			n := -1
			switch suffix, wild := strings.CutPrefix(strings.ToLower(h), "*"); {
			case h == "*":
				n = 0
			case wild && len(host) > len(suffix) && strings.HasSuffix(host, suffix):
				n = len(suffix)
			case !wild && strings.TrimSuffix(suffix, ".") == host:
				n = 1 << 16
			}
			if n > length {
				best, length = &all[i], n
			}
		}
	}
	return best
}

// hostname returns a host in lower case, without its port and the dot of an absolute name.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func matches(rule *model.Rule, r *Request, callerNamespace string) bool {
	m := &rule.Match
	path, query := r.split()
	if rule.CallerNamespace != "" && rule.CallerNamespace != callerNamespace || m.Method != "" && m.Method != r.Method {
		return false
	}
	if m.Path.Type == model.MatchExact && m.Path.Value == "" {
		if path != "/" {
			return false
		}
	} else if !m.Path.Matches(path) {
		return false
	}
	if m.GRPC && !isGRPC(r) {
		return false
	}
	for _, h := range m.Headers {
		value, ok := r.header(h.Name)
		if !ok || !compares(h, value) {
			return false
		}
	}
	for _, q := range m.Query {
		value, ok := parameter(query, q.Name, q.Type == model.MatchRegex)
		if !ok || !compares(q, value) {
			return false
		}
	}
	return true
}

func isGRPC(r *Request) bool {
	t, _ := r.header("content-type")
	return t == "application/grpc" || strings.HasPrefix(t, "application/grpc+") || strings.HasPrefix(t, "application/grpc;")
}

func compares(m model.ValueMatch, value string) bool {
	if m.Type != model.MatchRegex {
		return value == m.Value
	}
	re, err := regexp.Compile("^(?:" + m.Value + ")$")
	return err == nil && m.Value != "" && re.MatchString(value)
}

// header returns the values of a header, joined as Envoy joins them.
func (r *Request) header(name string) (string, bool) {
	if strings.EqualFold(name, "host") {
		return r.Host, true
	}
	var values []string
	for _, h := range r.Headers {
		if strings.EqualFold(h.Name, name) {
			values = append(values, h.Value)
		}
	}
	return strings.Join(values, ","), len(values) > 0
}

// parameter returns the first value of a query parameter. Expressions are compared with what was sent, other values
// with what it means.
func parameter(query, name string, raw bool) (string, bool) {
	for part := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(part, "=")
		if key != name {
			continue
		}
		if raw {
			return value, true
		}
		decoded, err := url.QueryUnescape(value)
		return decoded, err == nil
	}
	return "", false
}

// split returns the path, without dot segments as Envoy compares it, and the query.
func (r *Request) split() (path, query string) {
	path, _, _ = strings.Cut(r.Path, "#")
	path, query, _ = strings.Cut(path, "?")
	return withoutDots(path), query
}

// withoutDots removes dot segments (RFC 3986, 5.2.4). It keeps empty segments.
func withoutDots(path string) string {
	var out []string
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".":
		case "..":
			out = out[:max(len(out)-1, 0)]
		default:
			out = append(out, s)
			continue
		}
		if last {
			out = append(out, "")
		}
	}
	return "/" + strings.Join(out, "/")
}
