package proxy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// logLevels are the levels that Envoy's loggers have.
var logLevels = []string{"trace", "debug", "info", "warning", "error", "critical", "off"}

// inspectTimeout bounds an answer that may have many megabytes.
const inspectTimeout = 30 * time.Second

// Inspect asks Envoy's admin by GET for a path with its query. Close the answer.
func (c *Client) Inspect(ctx context.Context, path string) (io.ReadCloser, error) {
	a := c.admin()
	a.http.Timeout = inspectTimeout
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Envoy's admin at %s: %w", a.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask Envoy's admin at %s: %s answers %d", a.socket, path, resp.StatusCode)
	}
	return resp.Body, nil
}

// SetLogLevel sets the level of one of Envoy's loggers, or of all if logger is "". Nothing is set if level is "". It returns
// the levels that the loggers have then. They last until Envoy is restarted.
func (c *Client) SetLogLevel(ctx context.Context, logger, level string) (map[string]string, error) {
	now, err := c.logging(ctx, "")
	if err != nil || level == "" {
		return now, err
	}
	if !slices.Contains(logLevels, level) {
		return nil, fmt.Errorf("Envoy has no log level %q; there are %s", level, strings.Join(logLevels, ", "))
	}
	if logger == "" {
		return c.logging(ctx, "?level="+level)
	}
	if _, ok := now[logger]; !ok {
		return nil, fmt.Errorf("Envoy has no logger %q; there are %s", logger, strings.Join(slices.Sorted(maps.Keys(now)), ", "))
	}
	return c.logging(ctx, "?"+url.QueryEscape(logger)+"="+level)
}

// loggerLine is a line of what Envoy says of its loggers.
var loggerLine = regexp.MustCompile(`(?m)^\s+(\S+): (\S+)$`)

func (c *Client) admin() *admin {
	return newAdmin(filepath.Join(or(c.RunDir, DefaultRunDir), AdminSocket))
}

func (c *Client) logging(ctx context.Context, query string) (map[string]string, error) {
	a := c.admin()
	status, body, err := a.do(ctx, http.MethodPost, "/logging"+query)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("ask Envoy's admin at %s: /logging answers %d: %.200s", a.socket, status, body)
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, m := range loggerLine.FindAllStringSubmatch(string(body), -1) {
		out[m[1]] = m[2]
	}
	return out, nil
}
