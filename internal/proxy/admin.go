package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// adminTimeout bounds a question to Envoy's admin, which answers in the main thread between other work.
const adminTimeout = 5 * time.Second

// admin is Envoy's admin interface (https://www.envoyproxy.io/docs/envoy/latest/operations/admin).
type admin struct {
	socket string
	http   *http.Client
}

func newAdmin(socket string) *admin {
	h := unixClient(socket)
	// An idle connection would hold on to an Envoy that hands its admin over to the next.
	h.Transport.(*http.Transport).DisableKeepAlives = true
	return &admin{socket: socket, http: h}
}

func (a *admin) do(ctx context.Context, method, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask Envoy's admin at %s: %w", a.socket, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("ask Envoy's admin at %s: %w", a.socket, err)
	}
	return resp.StatusCode, body, nil
}

// serverInfo is the part of envoy.admin.v3.ServerInfo that is used.
type serverInfo struct {
	Version            string `json:"version"` // sha/1.40.0/Clean/RELEASE/BoringSSL
	State              string `json:"state"`
	CommandLineOptions struct {
		RestartEpoch int    `json:"restart_epoch"`
		BaseID       uint32 `json:"base_id,string"`
	} `json:"command_line_options"`
}

// release is 1.40.0 of the version's five parts.
func (i serverInfo) release() string {
	if parts := strings.Split(i.Version, "/"); len(parts) == 5 {
		return parts[1]
	}
	return i.Version
}

func (a *admin) info(ctx context.Context) (serverInfo, error) {
	var info serverInfo
	return info, a.json(ctx, "/server_info", &info)
}

// memory is envoy.admin.v3.Memory: numbers as text.
type memory struct {
	Allocated uint64 `json:"allocated,string"`
	HeapSize  uint64 `json:"heap_size,string"`
}

func (a *admin) memory(ctx context.Context) (memory, error) {
	var m memory
	return m, a.json(ctx, "/memory", &m)
}

func (a *admin) counters(ctx context.Context, filter string) (map[string]uint64, error) {
	var answer struct {
		Stats []struct {
			Name  string  `json:"name"`
			Value *uint64 `json:"value"` // absent in histograms
		} `json:"stats"`
	}
	path := "/stats?format=json"
	if filter != "" {
		path += "&filter=" + url.QueryEscape(filter)
	}
	if err := a.json(ctx, path, &answer); err != nil {
		return nil, err
	}
	out := make(map[string]uint64, len(answer.Stats))
	for _, s := range answer.Stats {
		if s.Value != nil {
			out[s.Name] = *s.Value
		}
	}
	return out, nil
}

func (a *admin) json(ctx context.Context, path string, out any) error {
	code, body, err := a.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("ask Envoy's admin at %s: %s answers %d", a.socket, path, code)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("ask Envoy's admin at %s: %s: %w", a.socket, path, err)
	}
	return nil
}

// post is for what changes something; Envoy refuses it by GET.
func (a *admin) post(ctx context.Context, path string) error {
	code, body, err := a.do(ctx, http.MethodPost, path)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("ask Envoy's admin at %s: %s answers %d: %.200s", a.socket, path, code, body)
	}
	return err
}
