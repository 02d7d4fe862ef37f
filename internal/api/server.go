package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

// Handler answers for a node. Serve it on a socket of mode 0600 only: it says all that the node knows, but for keys.
func Handler(n Node) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, NewStatus(n, time.Now()))
	})
	mux.HandleFunc("GET /v1/config/{what}", func(w http.ResponseWriter, r *http.Request) {
		list, ok := listers[r.PathValue("what")]
		if !ok {
			known := strings.Join(slices.Sorted(maps.Keys(listers)), ", ")
			http.Error(w, fmt.Sprintf("no list is called %q; there are %s", r.PathValue("what"), known), http.StatusNotFound)
			return
		}
		answer(w, list(n.State, r.URL.Query().Get("namespace"), r.URL.Query().Get("name")))
	})
	mux.HandleFunc("GET /v1/explain", n.explain)
	mux.HandleFunc("GET /v1/explain/arrival", n.arrive)
	mux.HandleFunc("GET /v1/describe", n.describe)
	mux.HandleFunc("GET /v1/envoy/{what}", n.inspect)
	mux.HandleFunc("GET /v1/envoy/log-level", n.logLevel)
	mux.HandleFunc("POST /v1/envoy/log-level", n.logLevel)
	mux.HandleFunc("GET /v1/map", n.mapPart)
	mux.HandleFunc("GET /v1/map/flows", n.mapFlows)
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, r *http.Request) { flows(w, r, n.Flows) })
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error is a client that went away, and is no one's to handle.
	_ = json.NewEncoder(w).Encode(v)
}

// FlowQuery asks for flows. Its text form is that of /v1/flows' query.
type FlowQuery struct {
	// Follow waits for what comes; without it the answer ends with what is there.
	Follow bool
	// Limit is how many of the last flows to begin with; 0 is all that are kept, or with Follow and without Since none.
	Limit int
	observe.Terms
}

func (q *FlowQuery) times() map[string]*time.Time {
	return map[string]*time.Time{"since": &q.Since, "until": &q.Until}
}

func (q FlowQuery) values() url.Values {
	v := url.Values{}
	if q.Follow {
		v.Set("follow", "true")
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	for key, values := range q.Fields() {
		if len(*values) > 0 {
			v[key] = *values
		}
	}
	for key, at := range q.times() {
		if !at.IsZero() {
			v.Set(key, at.Format(time.RFC3339Nano))
		}
	}
	return v
}

// parseFlowQuery is the inverse of values.
func parseFlowQuery(v url.Values) (q FlowQuery, f observe.Filter, err error) {
	q.Follow = v.Get("follow") == "true"
	if l := v.Get("limit"); l != "" {
		if q.Limit, err = strconv.Atoi(l); err != nil || q.Limit < 0 {
			return q, f, fmt.Errorf("limit %q is not a number", l)
		}
	}
	for key, values := range q.Fields() {
		*values = v[key]
	}
	for key, at := range q.times() {
		if text := v.Get(key); text != "" {
			if *at, err = time.Parse(time.RFC3339Nano, text); err != nil {
				return q, f, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	f, err = q.Filter()
	return q, f, err
}

func flows(w http.ResponseWriter, r *http.Request, store *observe.Store) {
	q, filter, err := parseFlowQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if store == nil {
		http.Error(w, "this agent keeps no flows", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	control := http.NewResponseController(w)
	// Follow starts before List so that no flow falls between them; what both give is sent once.
	events := store.Follow(r.Context(), filter)
	var last uint64
	if !q.Follow || q.Limit > 0 || !q.Since.IsZero() {
		for _, e := range store.List(filter, q.Limit) {
			if e.Flow != nil {
				last = e.Flow.Seq
			}
			if enc.Encode(e) != nil {
				return
			}
		}
	}
	if !q.Follow {
		return
	}
	if control.Flush() != nil {
		return
	}
	for e := range events {
		if e.Flow != nil && e.Flow.Seq <= last {
			continue
		}
		if enc.Encode(e) != nil || control.Flush() != nil {
			return
		}
	}
}
