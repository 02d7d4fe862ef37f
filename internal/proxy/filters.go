package proxy

import (
	"context"
	"strings"
)

// What Envoy counts of an HTTP filter that is served apart from its listener: extension_config_discovery.http_filter.<name>.<counter>
// (https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/overview/extension). An update counts when the main thread has it, before
// it is acknowledged, and a reload when the last worker has it.
const (
	filterScope   = `extension_config_discovery\.http_filter\.`
	filterUpdates = "update_success"
	filterReloads = "config_reload"
)

// AppliedFilters tells of Envoy's filters by name whether all workers have the version that the main thread has. An Envoy that was
// sent the same version twice, which the agent does not do, counts an update without a reload, and the filter is false from then on.
func (c *Client) AppliedFilters(ctx context.Context) (map[string]bool, error) {
	counters, err := c.Counters(ctx, "^"+filterScope)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for stat, updates := range counters {
		if name, ok := strings.CutSuffix(stat, "."+filterUpdates); ok {
			reloads, known := counters[name+"."+filterReloads]
			name = strings.TrimPrefix(name, strings.ReplaceAll(filterScope, `\`, ""))
			out[name] = known && updates > 0 && updates == reloads
		}
	}
	return out, nil
}
