package proxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"time"
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

// Listening reports whether a supervisor listens on its control socket. It asks nothing, so it does not wait for one that is
// silent.
func (c *Client) Listening(ctx context.Context) bool {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", filepath.Join(or(c.RunDir, DefaultRunDir), ControlSocket))
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}

// Restart hot-restarts Envoy and returns when the new one is live and has the listeners. On an error the old one goes
// on serving.
func (c *Client) Restart(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/restart", nil, nil)
}

// Counters gives Envoy's counters and gauges whose name matches an RE2 expression; "" is all.
func (c *Client) Counters(ctx context.Context, filter string) (map[string]uint64, error) {
	return c.admin().counters(ctx, filter)
}

// Metrics gives what Envoy counts in Prometheus' text format, without what Requests returns: that is by client and by code,
// and the agent's metrics hold it by workload. It alone begins with a w, and the filters of Applied with an e (statsConfig).
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	status, body, err := c.admin().do(ctx, http.MethodGet, "/stats/prometheus?filter="+url.QueryEscape("^[^ew]"))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("Envoy's admin answers %d to a question for its statistics", status)
	}
	return body, err
}

// Follow calls take with what the supervisor knows of Envoy, at once and after each change, until ctx ends or the supervisor
// does: what only Envoy's admin knows (memory, listeners, connections, the stream to the agent) is not in it. It returns nil
// if the supervisor ended the answer, which one of an older version does after the first Status, and ErrNotRunning if there
// is none.
func (c *Client) Follow(ctx context.Context, take func(*Status)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(followPatience, func() { cancel(fmt.Errorf("weft proxy has not answered for %v", followPatience)) })
	defer silence.Stop()
	body, err := c.open(ctx, http.MethodGet, "/status?follow=true", nil)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer body.Close()
	in := json.NewDecoder(&noisy{body, func() { silence.Reset(followPatience) }})
	for {
		var st Status
		switch err := in.Decode(&st); {
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("follow weft proxy: %w", err)
		}
		take(&st)
	}
}

// noisy calls heard each time that something was read.
type noisy struct {
	io.Reader
	heard func()
}

func (n *noisy) Read(p []byte) (int, error) {
	size, err := n.Reader.Read(p)
	if size > 0 {
		n.heard()
	}
	return size, err
}

// call sends JSON and reads JSON; an answer other than 2xx holds the error as text.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := c.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	answer, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask weft proxy: %w", err)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// maxAnswer bounds an answer in bytes.
const maxAnswer = 1 << 20

// open sends JSON, and returns the body of the answer. Close it.
func (c *Client) open(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	socket := filepath.Join(or(c.RunDir, DefaultRunDir), ControlSocket)
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	h := unixClient(socket)
	h.Transport.(*http.Transport).DisableKeepAlives = true // the end of the body ends the connection
	resp, err := h.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w (nothing answers at %s)", ErrNotRunning, socket)
	}
	if err != nil {
		return nil, fmt.Errorf("ask weft proxy at %s: %w", socket, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return nil, cmp.Or(err, errors.New(strings.TrimSpace(string(text))))
	}
	return resp.Body, nil
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
