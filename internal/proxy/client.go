package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNotRunning means that nobody supervises an Envoy in this run directory.
var ErrNotRunning = errors.New("weft proxy does not run")

// Client asks a supervisor, and the Envoy behind it, over the sockets in the run directory.
type Client struct {
	RunDir string // DefaultRunDir
}

// Status of the Envoy. ErrNotRunning where there is no supervisor.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var st Status
	if err := c.call(ctx, http.MethodGet, "/status", nil, &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// Restart hot-restarts Envoy and returns when the new one is live and has the listeners. On an error the old one goes
// on serving.
func (c *Client) Restart(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/restart", nil, nil)
}

// Counters gives Envoy's counters and gauges whose name matches an RE2 expression; "" is all.
func (c *Client) Counters(ctx context.Context, filter string) (map[string]uint64, error) {
	return newAdmin(filepath.Join(or(c.RunDir, DefaultRunDir), AdminSocket)).counters(ctx, filter)
}

// Metrics gives what Envoy counts in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	status, body, err := newAdmin(filepath.Join(or(c.RunDir, DefaultRunDir), AdminSocket)).do(ctx, http.MethodGet, "/stats/prometheus")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("Envoy's admin answers %d to a question for its statistics", status)
	}
	return body, err
}

// call sends JSON and reads JSON; an answer other than 2xx holds the error as text.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	socket := filepath.Join(or(c.RunDir, DefaultRunDir), ControlSocket)
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	h := unixClient(socket)
	defer h.CloseIdleConnections()
	resp, err := h.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w (nothing answers at %s)", ErrNotRunning, socket)
	}
	if err != nil {
		return fmt.Errorf("ask weft proxy at %s: %w", socket, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("ask weft proxy at %s: %w", socket, err)
	}
	if resp.StatusCode/100 != 2 {
		return errors.New(strings.TrimSpace(string(answer)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// unixClient speaks HTTP over a unix socket, whatever the host in the URL.
func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}
