package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxBody bounds what is read of one answer.
const maxBody = 64 << 20

// client sends requests over one connection at a time.
type client struct {
	cfg  *Config
	url  *url.URL
	conn net.Conn
	born time.Time // of conn
	buf  *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *client) do() Result {
	res := Result{Start: time.Now()}
	res.Err = c.exchange(&res)
	res.Took = time.Since(res.Start)
	old := c.cfg.MaxAge > 0 && time.Since(c.born) > c.cfg.MaxAge
	if res.Err != nil || c.cfg.NewConnections || old {
		c.close()
	}
	return res
}

func (c *client) exchange(res *Result) error {
	deadline := res.Start.Add(c.cfg.Timeout)
	if c.conn == nil {
		if err := c.connect(deadline); err != nil {
			return err
		}
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	req := &http.Request{Method: http.MethodGet, URL: c.url, Host: c.cfg.Host, Header: c.cfg.Header, Close: c.cfg.NewConnections}
	if err := req.Write(c.conn); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	answer, err := http.ReadResponse(c.buf, req)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxBody))
	_ = answer.Body.Close()
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	res.Status, res.Backend = answer.StatusCode, answer.Header.Get(BackendHeader)
	if answer.Close {
		c.close()
	}
	return nil
}

func (c *client) connect(deadline time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	port := c.url.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.url.Scheme]
	}
	conn, err := c.cfg.Dial(ctx, "tcp", net.JoinHostPort(c.url.Hostname(), port))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if c.url.Scheme == "https" {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.cfg.TLS != nil {
			cfg = c.cfg.TLS.Clone()
		}
		if cfg.ServerName == "" {
			cfg.ServerName = c.serverName()
		}
		tc := tls.Client(conn, cfg)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return fmt.Errorf("TLS: %w", err)
		}
		conn = tc
	}
	c.conn, c.born, c.buf = conn, time.Now(), bufio.NewReader(conn)
	return nil
}

func (c *client) serverName() string {
	if c.cfg.Host == "" {
		return c.url.Hostname()
	}
	if host, _, err := net.SplitHostPort(c.cfg.Host); err == nil {
		return host
	}
	return c.cfg.Host
}
