package analyze

import (
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/xds"
)

// Resource is one of Envoy's, in the JSON form of its protobuf message.
type Resource struct {
	Type     string         `json:"type"` // type URL
	Name     string         `json:"name"`
	Resource map[string]any `json:"resource"`
}

// Envoy returns the listeners of the Gateways, the route tables, and the clusters that these name with their endpoints:
// what an agent gives to the node's Envoy. Listeners of pods are left out, for they depend on where a pod runs.
func (m *Mesh) Envoy() ([]Resource, error) {
	// An agent has the certificates that its node trusts.
	server := xds.New(m.st, xds.Config{TrustDomain: trustDomain, SystemRoots: []byte("those of the node")})
	var out []Resource
	add := func(typeURL, name string) (map[string]any, error) {
		message, ok := server.Build(typeURL, name)
		if !ok {
			return nil, nil // an agent serves none either
		}
		raw, err := protojson.Marshal(message)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", typeURL, name, err)
		}
		var plain map[string]any
		if err := json.Unmarshal(raw, &plain); err != nil {
			return nil, fmt.Errorf("%s %s: %w", typeURL, name, err)
		}
		out = append(out, Resource{typeURL, name, plain})
		return plain, nil
	}
	rows := m.Model()
	for _, g := range rows.Gateways {
		for _, name := range listeners(g) {
			if _, err := add(xds.TypeListener, name); err != nil {
				return nil, err
			}
		}
	}
	var clusters []string
	for _, t := range rows.RouteTables {
		table, err := add(xds.TypeRoute, t.Name)
		if err != nil {
			return nil, err
		}
		clusters = append(clusters, clustersOf(table)...)
	}
	for _, r := range rows.StreamRoutes {
		if r.Route.Kind != "UDPRoute" {
			clusters = append(clusters, xds.StreamCluster(r))
		}
	}
	for _, g := range rows.Gateways {
		clusters = append(clusters, datagramPorts(g)...)
		clusters = append(clusters, xds.ExportClusters(g)...)
	}
	slices.Sort(clusters)
	for _, name := range slices.Compact(clusters) {
		for _, typeURL := range []string{xds.TypeCluster, xds.TypeEndpoint} {
			if _, err := add(typeURL, name); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func listeners(g *model.Gateway) []string {
	out := datagramPorts(g)
	for _, p := range g.Ports {
		if !p.UDP {
			out = append(out, model.GatewayTable(g.Namespace, g.Name, p.Port, ""))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// datagramPorts returns the names of a Gateway's UDP ports, each of which is a listener and a cluster.
func datagramPorts(g *model.Gateway) []string {
	var out []string
	for _, p := range g.Ports {
		if p.UDP {
			out = append(out, model.GatewayDatagrams(g.Namespace, g.Name, p.Port))
		}
	}
	return out
}

// clustersOf returns the names of clusters in a RouteConfiguration: the fields cluster of RouteAction and of
// RequestMirrorPolicy, and the names in weightedClusters.
func clustersOf(v any) []string {
	var out []string
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			out = append(out, clustersOf(e)...)
		}
	case map[string]any:
		for key, e := range v {
			switch name, isText := e.(string); {
			case key == "cluster" && isText:
				out = append(out, name)
			case key == "weightedClusters":
				out = append(out, weighted(e)...)
			default:
				out = append(out, clustersOf(e)...)
			}
		}
	}
	return out
}

func weighted(v any) []string {
	fields, _ := v.(map[string]any)
	list, _ := fields["clusters"].([]any)
	var out []string
	for _, e := range list {
		c, _ := e.(map[string]any)
		if name, ok := c["name"].(string); ok {
			out = append(out, name)
		}
	}
	return out
}
