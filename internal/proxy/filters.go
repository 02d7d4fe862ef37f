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

// What Envoy counts of listeners (https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/listeners/stats#listener-manager). A
// listener is acknowledged, and is counted as added or modified, before it warms. Each worker counts once when it has taken it.
const (
	listenersAdded    = "listener_manager.listener_added"
	listenersModified = "listener_manager.listener_modified"
	listenersTaken    = "listener_manager.listener_create_success"
	workers           = "server.concurrency"
)

// Applied is what Envoy's workers have of what the main thread has.
type Applied struct {
	// Filters reports of a filter by name whether all workers have the version that the main thread has. An Envoy that was sent
	// the same version twice, which the agent does not do, counts an update without a reload, and the filter is false from then on.
	Filters map[string]bool
	// Behind is how often workers have yet to take a listener: those that warm, and those on their way to a worker. A listener that
	// was replaced or removed while it warmed remains in it as long as the Envoy runs.
	Behind int64
}

// Applied asks Envoy what its workers have.
func (c *Client) Applied(ctx context.Context) (*Applied, error) {
	counters, err := c.Counters(ctx, `^(`+filterScope+`|listener_manager\.listener_|server\.concurrency$)`)
	if err != nil {
		return nil, err
	}
	return applied(counters), nil
}

func applied(counters map[string]uint64) *Applied {
	a := &Applied{Filters: map[string]bool{}}
	for stat, updates := range counters {
		if name, ok := strings.CutSuffix(stat, "."+filterUpdates); ok {
			reloads, known := counters[name+"."+filterReloads]
			name = strings.TrimPrefix(name, strings.ReplaceAll(filterScope, `\`, ""))
			a.Filters[name] = known && updates > 0 && updates == reloads
		}
	}
	versions := counters[listenersAdded] + counters[listenersModified]
	a.Behind = int64(counters[workers]*versions) - int64(counters[listenersTaken])
	return a
}
