// Package envoyconfig reads what an Envoy says that it has: the configuration that its admin interface dumps, and the state
// of its endpoints. The shapes are those of envoy.admin.v3.ConfigDump and envoy.admin.v3.Clusters as JSON.
package envoyconfig

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Paths of Envoy's admin interface whose answers this package reads.
const (
	DumpPath     = "/config_dump?include_eds"
	ClustersPath = "/clusters?format=json"
)

// State says whether Envoy uses a resource.
type State string

// States of a resource.
const (
	Active   State = "active"
	Static   State = "static"   // of the bootstrap
	Warming  State = "warming"  // it waits for something that it names
	Draining State = "draining" // its connections end, it takes no new ones
	Refused  State = "refused"  // the version before it, if there is one, is active
)

// Config is what Envoy was given, sorted by name. Private keys are not in it: Envoy leaves them out.
type Config struct {
	Listeners []Listener
	Clusters  []Cluster
	Routes    []Route
	Secrets   []Secret
}

// Resource is what all of Envoy's resources have.
type Resource struct {
	Name    string
	State   State
	Version string
	Updated time.Time // when Envoy took it
	// Raw is the resource as Envoy dumped it.
	Raw json.RawMessage
}

// Common returns what is common to all kinds.
func (r Resource) Common() Resource { return r }

// Kind is a Listener, Cluster, Route or Secret.
type Kind interface{ Common() Resource }

// section has the fields of all messages that a dump consists of: their names do not collide.
type section struct {
	StaticListeners  []listenerState   `json:"static_listeners"`
	DynamicListeners []dynamicListener `json:"dynamic_listeners"`

	StaticClusters  []clusterState `json:"static_clusters"`
	ActiveClusters  []clusterState `json:"dynamic_active_clusters"`
	WarmingClusters []clusterState `json:"dynamic_warming_clusters"`

	StaticRoutes  []routeState `json:"static_route_configs"`
	DynamicRoutes []routeState `json:"dynamic_route_configs"`

	StaticSecrets  []secretState `json:"static_secrets"`
	ActiveSecrets  []secretState `json:"dynamic_active_secrets"`
	WarmingSecrets []secretState `json:"dynamic_warming_secrets"`
}

// stamp is what a dump says beside a resource.
type stamp struct {
	Version string    `json:"version_info"`
	Updated time.Time `json:"last_updated"`
}

func (s stamp) resource(state State, name string, raw json.RawMessage) Resource {
	return Resource{Name: name, State: state, Version: s.Version, Updated: s.Updated, Raw: raw}
}

// Parse reads the answer to DumpPath.
func Parse(text []byte) (*Config, error) {
	var dump struct {
		Configs []section `json:"configs"`
	}
	if err := json.Unmarshal(text, &dump); err != nil {
		return nil, fmt.Errorf("envoy's configuration dump: %w", err)
	}
	c := &Config{}
	for _, s := range dump.Configs {
		if err := c.add(s); err != nil {
			return nil, fmt.Errorf("envoy's configuration dump: %w", err)
		}
	}
	sort(c.Listeners)
	sort(c.Clusters)
	sort(c.Secrets)
	slices.SortStableFunc(c.Routes, func(a, b Route) int { return cmp.Compare(a.Name, b.Name) }) // their order tells who wins
	return c, nil
}

func sort[T Kind](list []T) {
	slices.SortStableFunc(list, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.Common().Name, b.Common().Name), cmp.Compare(a.Common().State, b.Common().State))
	})
}

func (c *Config) add(s section) error {
	for _, l := range s.DynamicListeners {
		if err := c.addDynamic(l); err != nil {
			return err
		}
	}
	for _, add := range []func() error{
		func() error { return each(s.StaticListeners, Static, c.addListener) },
		func() error { return each(s.StaticClusters, Static, c.addCluster) },
		func() error { return each(s.ActiveClusters, Active, c.addCluster) },
		func() error { return each(s.WarmingClusters, Warming, c.addCluster) },
		func() error { return each(s.StaticRoutes, Static, c.addRoutes) },
		func() error { return each(s.DynamicRoutes, Active, c.addRoutes) },
		func() error { return each(s.StaticSecrets, Static, c.addSecret) },
		func() error { return each(s.ActiveSecrets, Active, c.addSecret) },
		func() error { return each(s.WarmingSecrets, Warming, c.addSecret) },
	} {
		if err := add(); err != nil {
			return err
		}
	}
	return nil
}

func each[T any](list []T, state State, add func(T, State) error) error {
	for _, v := range list {
		if err := add(v, state); err != nil {
			return err
		}
	}
	return nil
}
