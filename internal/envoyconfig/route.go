package envoyconfig

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Route is one rule of a route table. Name is the table's.
type Route struct {
	Resource
	VirtualHost string
	Hosts       []string
	Match       string // in words
	Target      string // clusters with their weights, or what is answered
}

type routeState struct {
	stamp
	Table json.RawMessage `json:"route_config"`
}

func (c *Config) addRoutes(s routeState, state State) error {
	var table struct {
		Name  string `json:"name"`
		Hosts []struct {
			Name    string            `json:"name"`
			Domains []string          `json:"domains"`
			Routes  []json.RawMessage `json:"routes"`
		} `json:"virtual_hosts"`
	}
	if err := json.Unmarshal(s.Table, &table); err != nil {
		return fmt.Errorf("route table: %w", err)
	}
	for _, h := range table.Hosts {
		for _, raw := range h.Routes {
			var r route
			if err := json.Unmarshal(raw, &r); err != nil {
				return fmt.Errorf("route table %s: %w", table.Name, err)
			}
			c.Routes = append(c.Routes, Route{
				Resource: s.resource(state, table.Name, raw), VirtualHost: h.Name, Hosts: h.Domains, Match: r.Match.String(), Target: r.target(),
			})
		}
	}
	return nil
}

// route is envoy.config.route.v3.Route.
type route struct {
	Match match `json:"match"`
	Route *struct {
		Cluster  string `json:"cluster"`
		Header   string `json:"cluster_header"`
		Weighted *struct {
			Clusters []struct {
				Name   string `json:"name"`
				Weight int    `json:"weight"`
			} `json:"clusters"`
		} `json:"weighted_clusters"`
	} `json:"route"`
	Redirect *struct{} `json:"redirect"`
	Direct   *struct {
		Status int `json:"status"`
	} `json:"direct_response"`
}

func (r route) target() string {
	switch {
	case r.Redirect != nil:
		return "redirect"
	case r.Direct != nil:
		return fmt.Sprintf("answer %d", r.Direct.Status)
	case r.Route == nil:
		return ""
	case r.Route.Header != "":
		return "the cluster that header " + r.Route.Header + " names"
	case r.Route.Weighted != nil:
		var all []string
		for _, c := range r.Route.Weighted.Clusters {
			all = append(all, fmt.Sprintf("%s %d", c.Name, c.Weight))
		}
		return strings.Join(all, ", ")
	}
	return r.Route.Cluster
}

// match is envoy.config.route.v3.RouteMatch.
type match struct {
	Prefix    *string   `json:"prefix"`
	Path      *string   `json:"path"`
	Separated *string   `json:"path_separated_prefix"`
	Regex     *regex    `json:"safe_regex"`
	Connect   *struct{} `json:"connect_matcher"`
	Headers   []header  `json:"headers"`
	Query     []header  `json:"query_parameters"`
}

type regex struct {
	Regex string `json:"regex"`
}

type header struct {
	Name   string         `json:"name"`
	String *stringMatcher `json:"string_match"`
	Invert bool           `json:"invert_match"`
}

// stringMatcher is envoy.type.matcher.v3.StringMatcher.
type stringMatcher struct {
	Exact  *string `json:"exact"`
	Prefix *string `json:"prefix"`
	Regex  *regex  `json:"safe_regex"`
}

func (m match) String() string {
	var out []string
	switch {
	case m.Path != nil:
		out = append(out, *m.Path)
	case m.Separated != nil:
		out = append(out, *m.Separated+"/*")
	case m.Prefix != nil:
		out = append(out, *m.Prefix+"*")
	case m.Regex != nil:
		out = append(out, "~"+m.Regex.Regex)
	case m.Connect != nil:
		out = append(out, "CONNECT")
	}
	for _, h := range m.Headers {
		out = append(out, h.text(""))
	}
	for _, q := range m.Query {
		out = append(out, q.text("?"))
	}
	return strings.Join(out, " ")
}

func (h header) text(mark string) string {
	equal, value := "=", "*"
	if h.Invert {
		equal = "!="
	}
	switch s := h.String; {
	case s == nil:
	case s.Exact != nil:
		value = *s.Exact
	case s.Prefix != nil:
		value = *s.Prefix + "*"
	case s.Regex != nil:
		value = "~" + s.Regex.Regex
	}
	return mark + h.Name + equal + value
}
