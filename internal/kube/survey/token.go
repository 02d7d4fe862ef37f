package survey

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/client-go/transport"
)

// errSent ends a request that must not be sent.
var errSent = errors.New("not sent")

// captured keeps the Authorization header of a request in place of sending it.
type captured struct{ header string }

// RoundTrip implements http.RoundTripper.
func (c *captured) RoundTrip(r *http.Request) (*http.Response, error) {
	c.header = r.Header.Get("Authorization")
	return nil, errSent
}

// Token returns the bearer token that requests to the API server are sent with, however the kubeconfig gets it.
func (c *Cluster) Token(ctx context.Context) (string, error) {
	cfg, err := c.cfg.TransportConfig()
	if err != nil {
		return "", fmt.Errorf("the kubeconfig's token: %w", err)
	}
	var to captured
	rt, err := transport.HTTPWrappersForConfig(cfg, &to)
	if err != nil {
		return "", fmt.Errorf("the kubeconfig's token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.Host, nil)
	if err != nil {
		return "", fmt.Errorf("the kubeconfig's token: %w", err)
	}
	res, err := rt.RoundTrip(req)
	if res != nil {
		_ = res.Body.Close() // there is none: nothing was sent
	}
	if err != nil && !errors.Is(err, errSent) {
		return "", fmt.Errorf("the kubeconfig's token: %w", err)
	}
	token, ok := strings.CutPrefix(to.header, "Bearer ")
	if !ok || token == "" {
		return "", errors.New("the kubeconfig has no bearer token, but another credential")
	}
	return token, nil
}

// TrustBundle returns the roots of the mesh that is installed in a namespace, in PEM.
func (c *Cluster) TrustBundle(ctx context.Context, namespace string) ([]byte, error) {
	m, err := get[struct{ Data map[string]string }](ctx, c, "/api/v1/namespaces/"+namespace+"/configmaps/weft-trust-bundle")
	if err != nil {
		return nil, err
	}
	return []byte(m.Data["ca.crt"]), nil
}
