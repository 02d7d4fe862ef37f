package envoyconfig

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Cluster is a cluster of Envoy.
type Cluster struct {
	Resource
	// Type is Envoy's: EDS, STATIC, ORIGINAL_DST, or the name of an extension.
	Type string
	// Encryption is TLS, none, or "by endpoint": an endpoint says which of several transport sockets is its.
	Encryption string
}

type clusterState struct {
	stamp
	Cluster json.RawMessage `json:"cluster"`
}

func (c *Config) addCluster(s clusterState, state State) error {
	var v struct {
		Name   string `json:"name"`
		Type   string `json:"type"`
		Custom *struct {
			Name string `json:"name"`
		} `json:"cluster_type"`
		Socket  *transport `json:"transport_socket"`
		Matches []struct{} `json:"transport_socket_matches"`
	}
	if err := json.Unmarshal(s.Cluster, &v); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	out := Cluster{Resource: s.resource(state, v.Name, s.Cluster), Type: v.Type, Encryption: "none"}
	if v.Custom != nil {
		out.Type = v.Custom.Name
	} else if out.Type == "" {
		out.Type = "STATIC" // proto3's zero is left out
	}
	switch {
	case len(v.Matches) > 0:
		out.Encryption = "by endpoint"
	case v.Socket.tls():
		out.Encryption = "TLS"
	}
	c.Clusters = append(c.Clusters, out)
	return nil
}

// transport is envoy.config.core.v3.TransportSocket.
type transport struct {
	Name   string          `json:"name"`
	Config json.RawMessage `json:"typed_config"`
}

// tls reports whether a transport socket, or one that it wraps, is TLS.
func (t *transport) tls() bool {
	return t != nil && (strings.HasSuffix(t.Name, ".tls") || strings.Contains(string(t.Config), "UpstreamTlsContext"))
}

// Endpoint is an address behind a cluster.
type Endpoint struct {
	Cluster, Address string
	Health           string // HEALTHY, DRAINING and the like; what Envoy itself found comes after a comma
	Weight           int
	// Connections are open. Requests, and Errors of them, count since the cluster was made; a connection of bytes is a request.
	Connections, Requests, Errors int64
	Raw                           json.RawMessage
}

// ParseClusters reads the answer to ClustersPath. Clusters and their endpoints are in Envoy's order.
func ParseClusters(text []byte) ([]Endpoint, error) {
	var answer struct {
		Clusters []struct {
			Name  string            `json:"name"`
			Hosts []json.RawMessage `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("envoy's clusters: %w", err)
	}
	var out []Endpoint
	for _, c := range answer.Clusters {
		for _, raw := range c.Hosts {
			e, err := endpoint(raw)
			if err != nil {
				return nil, fmt.Errorf("envoy's clusters: %s: %w", c.Name, err)
			}
			e.Cluster = c.Name
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b Endpoint) int { return strings.Compare(a.Cluster, b.Cluster) })
	return out, nil
}

func endpoint(raw json.RawMessage) (Endpoint, error) {
	var h struct {
		Address address `json:"address"`
		Weight  int     `json:"weight"`
		Stats   []struct {
			Name  string `json:"name"`
			Value string `json:"value"` // a number; absent for 0
		} `json:"stats"`
		Health map[string]any `json:"health_status"`
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Address: h.Address.String(), Weight: h.Weight, Raw: raw}
	for _, s := range h.Stats {
		n, err := strconv.ParseInt(s.Value, 10, 64)
		if err != nil && s.Value != "" {
			return e, fmt.Errorf("%s: %w", s.Name, err)
		}
		switch s.Name {
		case "cx_active":
			e.Connections = n
		case "rq_total":
			e.Requests = n
		case "rq_error":
			e.Errors = n
		}
	}
	e.Health = health(h.Health)
	return e, nil
}

// health is envoy.admin.v3.HostHealthStatus in words.
func health(status map[string]any) string {
	out := "UNKNOWN"
	if eds, ok := status["eds_health_status"].(string); ok {
		out = eds
	}
	var found []string
	for name, v := range status {
		if is, ok := v.(bool); ok && is {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return strings.Join(append([]string{out}, found...), ",")
}
