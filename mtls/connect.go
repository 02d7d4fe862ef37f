package mtls

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Connect opens a connection to a replica of the CA for another protocol than HTTP, by an Upgrade (RFC 9110). Both ends are
// authenticated as they are for certificates: the replica by its SPIFFE ID, this node's agent by its token.
func (r *Remote) Connect(ctx context.Context, replica netip.AddrPort, path, protocol string) (net.Conn, error) {
	r.mu.Lock()
	config := r.config
	r.mu.Unlock()
	if config == nil {
		return nil, errNoBundle
	}
	token, err := os.ReadFile(r.cfg.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("the agent's token for the CA: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no Upgrade
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", replica.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	out, err := upgrade(conn, path, protocol, strings.TrimSpace(string(token)))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return out, nil
}

func upgrade(conn net.Conn, path, protocol, token string) (net.Conn, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+ServerName+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusSwitchingProtocols:
		return &upgraded{conn, in}, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: it is older than this agent, or has no flows API", res.Status)
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // the status says enough
	return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
}

// upgraded is a connection of which something may have been read already.
type upgraded struct {
	net.Conn
	from *bufio.Reader
}

// Read implements net.Conn.
func (u *upgraded) Read(p []byte) (int, error) { return u.from.Read(p) }
