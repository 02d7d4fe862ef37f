package api

import (
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

	"github.com/weft-mesh/weft/internal/observe"
)

// Client asks a node's agent.
type Client struct {
	where string // the agent is: its socket, or words for it
	local bool
	http  *http.Client
}

// NewClient makes a client for the agent whose run directory is run. Nothing is dialled yet.
func NewClient(run string) *Client {
	socket := filepath.Join(run, SocketName)
	c := NewClientBy(socket, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
	c.local = true
	return c
}

// NewClientBy makes a client for an agent elsewhere, to which dial connects; where names it in errors. A connection must
// end when its context does.
func NewClientBy(where string, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{where: where, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return marked{conn}, nil
		},
	}}}
}

// marked is a connection whose errors are found again in what net/http makes of them. Its words ("readLoopPeekFailLocked")
// depend on whether the request was written before the connection broke, and say nothing to an operator.
type marked struct{ net.Conn }

type connError struct{ error }

func (e connError) Unwrap() error { return e.error }

func (m marked) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	return n, mark(err)
}

func (m marked) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	return n, mark(err)
}

// mark leaves io.EOF as it is: its readers compare it with ==.
func mark(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // what readers compare
		return err
	}
	return connError{err}
}

// Errors of the way to the agent.
var (
	ErrNotRunning = errors.New("the agent is not running")
	ErrPermission = errors.New("permission denied")
)

// Status asks for the node's health.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", nil, &s)
}

// List asks for /v1/config/<what>, restricted to a namespace and a name where they are not "". T is the type of the
// items, as the constants say.
func List[T any](ctx context.Context, c *Client, what, namespace, name string) ([]T, error) {
	q := url.Values{}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	if name != "" {
		q.Set("name", name)
	}
	var out []T
	return out, c.get(ctx, "/v1/config/"+what, q, &out)
}

// Flows calls each for every event until the answer ends, the context is done (no error) or each gives an error.
func (c *Client) Flows(ctx context.Context, q FlowQuery, each func(observe.Event) error) error {
	body, err := c.open(ctx, http.MethodGet, "/v1/flows", q.values())
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var e observe.Event
		switch err := dec.Decode(&e); {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading flows: the agent ended the answer: %w", err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

func (c *Client) get(ctx context.Context, path string, q url.Values, into any) error {
	return c.ask(ctx, http.MethodGet, path, q, into)
}

func (c *Client) ask(ctx context.Context, method, path string, q url.Values, into any) error {
	body, err := c.open(ctx, method, path, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("%s%s: the answer cannot be read (is the agent of another version?): %w", c.where, path, err)
	}
	return nil
}

func (c *Client) open(ctx context.Context, method, path string, q url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "agent", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		text := strings.TrimSpace(string(body))
		if text == "" || text == "404 page not found" { // by net/http: the agent has no such path
			return nil, fmt.Errorf("the agent answered %s (is it of another version?)", resp.Status)
		}
		return nil, errors.New(text)
	}
	return resp.Body, nil
}

// explain says what an operator can do about a socket that does not answer.
func (c *Client) explain(err error) error {
	var (
		u      *url.Error
		broken connError
	)
	switch {
	case !c.local && errors.As(err, &broken):
		return fmt.Errorf("asking the agent of %s: %w", c.where, broken.error)
	case !c.local && errors.As(err, &u): // its URL says nothing that is true
		return fmt.Errorf("asking the agent of %s: %w", c.where, u.Err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing answers on %s. For a cluster, name it with --kubeconfig. For a node, start its agent (\"weft agent --manifests DIR --proxy\") or name its run directory with --run",
			ErrNotRunning, c.where)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s may be opened by root only. Run the command as root, for example with sudo", ErrPermission, c.where)
	}
	if errors.As(err, &u) { // its URL has all that was asked for, which may be long
		err = u.Err
	}
	return fmt.Errorf("asking the agent on %s: %w", c.where, err)
}
