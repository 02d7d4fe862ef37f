package api

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
)

func (n Node) mapPart(w http.ResponseWriter, r *http.Request) {
	if n.Map == nil {
		http.Error(w, "this agent counts no traffic", http.StatusNotFound)
		return
	}
	answer(w, n.Map.Part(r.Context()))
}

func (n Node) mapFlows(w http.ResponseWriter, r *http.Request) {
	if n.Map == nil {
		http.Error(w, "this agent counts no traffic", http.StatusNotFound)
		return
	}
	flows, err := n.Map.Flows(r.Context(), servicemap.ParsePair(r.URL.Query()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, flows)
}

// MapAgent is an agent that is asked for its part of the service map. Node is "" for the only one.
type MapAgent struct {
	Node   string
	Client *Client
}

// ServiceMap is the service map of agents.
type ServiceMap []MapAgent

const (
	// mapAtOnce is how many agents are asked at a time, mapWithin the most that one of them may take.
	mapAtOnce = 16
	mapWithin = 15 * time.Second
)

// Graph merges what the agents count. It is an error if none answers.
func (m ServiceMap) Graph(ctx context.Context) (*servicemap.Graph, error) {
	parts, missing, err := askMap(ctx, m, func(ctx context.Context, c *Client) (*servicemap.Part, error) {
		p := &servicemap.Part{}
		return p, c.get(ctx, "/v1/map", nil, p)
	})
	if err != nil {
		return nil, err
	}
	return servicemap.Merge(time.Now(), parts, missing), nil
}

// Flows returns the last flows of a pair. It is an error if no agent answers.
func (m ServiceMap) Flows(ctx context.Context, p servicemap.Pair) ([]observe.Flow, error) {
	flows, _, err := askMap(ctx, m, func(ctx context.Context, c *Client) (out []observe.Flow, err error) {
		return out, c.get(ctx, "/v1/map/flows", p.Values(), &out)
	})
	return servicemap.LastFlows(flows...), err
}

// askMap asks agents, some at a time, and returns their answers and the nodes without one.
func askMap[T any](ctx context.Context, m ServiceMap, do func(context.Context, *Client) (T, error)) (out []T, missing []string, err error) {
	slots := make(chan struct{}, mapAtOnce)
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, a := range m {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, mapWithin)
			defer cancel()
			v, aerr := do(ctx, a.Client)
			mu.Lock()
			defer mu.Unlock()
			if aerr != nil {
				missing, err = append(missing, a.Node), aerr
				return
			}
			out = append(out, v)
		})
	}
	all.Wait()
	slices.Sort(missing)
	if len(out) > 0 {
		err = nil
	}
	return out, missing, err
}
