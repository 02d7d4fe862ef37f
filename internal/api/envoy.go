package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/weft-mesh/weft/internal/envoyconfig"
)

// Envoy is the node's Envoy.
type Envoy interface {
	// Inspect asks Envoy's admin by GET for a path with its query. Close the answer.
	Inspect(ctx context.Context, path string) (io.ReadCloser, error)
	// SetLogLevel sets the level of one of Envoy's loggers, or of all if logger is "", and nothing if level is "". It returns
	// the levels that they have then.
	SetLogLevel(ctx context.Context, logger, level string) (map[string]string, error)
}

// What /v1/envoy/<what> knows.
const (
	EnvoyDump     = "dump"     // envoy.admin.v3.ConfigDump
	EnvoyClusters = "clusters" // envoy.admin.v3.Clusters
)

var envoyPaths = map[string]string{EnvoyDump: envoyconfig.DumpPath, EnvoyClusters: envoyconfig.ClustersPath}

func (n *Node) inspect(w http.ResponseWriter, r *http.Request) {
	path, ok := envoyPaths[r.PathValue("what")]
	if !ok || n.Envoy == nil {
		http.Error(w, fmt.Sprintf("Envoy is not asked for %q here", r.PathValue("what")), http.StatusNotFound)
		return
	}
	body, err := n.Envoy.Inspect(r.Context(), path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/json")
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

func (n *Node) logLevel(w http.ResponseWriter, r *http.Request) {
	if n.Envoy == nil {
		http.Error(w, "this agent asks no Envoy", http.StatusNotFound)
		return
	}
	logger, level := "", ""
	if r.Method == http.MethodPost {
		logger, level = r.URL.Query().Get("logger"), r.URL.Query().Get("level")
	}
	levels, err := n.Envoy.SetLogLevel(r.Context(), logger, level)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	answer(w, levels)
}

// InspectEnvoy asks for /v1/envoy/<what>.
func (c *Client) InspectEnvoy(ctx context.Context, what string) (text json.RawMessage, err error) {
	return text, c.get(ctx, "/v1/envoy/"+what, nil, &text)
}

// EnvoyLogLevels returns the level of each of Envoy's loggers.
func (c *Client) EnvoyLogLevels(ctx context.Context) (levels map[string]string, err error) {
	return levels, c.get(ctx, "/v1/envoy/log-level", nil, &levels)
}

// SetEnvoyLogLevel sets the level of one of Envoy's loggers, or of all if logger is "".
func (c *Client) SetEnvoyLogLevel(ctx context.Context, logger, level string) (levels map[string]string, err error) {
	return levels, c.ask(ctx, http.MethodPost, "/v1/envoy/log-level", url.Values{"logger": {logger}, "level": {level}}, &levels)
}
