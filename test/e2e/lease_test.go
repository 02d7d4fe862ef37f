//go:build cluster

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// bearer sends a token with each request, and no client certificate.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(req)
}

// withToken returns a client for whoever the token is of.
func (c *client) withToken(token string) *client {
	transport := c.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = nil
	return &client{url: c.url, http: &http.Client{Transport: bearer{token, transport}, Timeout: c.http.Timeout}}
}

// TestAgentsLease uses the token of an agent as somebody who is root on its node can.
func TestAgentsLease(t *testing.T) {
	var agent string
	for _, p := range podsOf(t, system, "app.kubernetes.io/component=agent") {
		if p.Spec.NodeName == "n1" {
			agent = p.Metadata.Name
		}
	}
	if agent == "" {
		t.Fatal("node n1 has no agent")
	}
	bound := kubectl(t, "-n", system, "create", "token", "weft-agent", "--bound-object-kind=Pod", "--bound-object-name="+agent)
	unbound := kubectl(t, "-n", system, "create", "token", "weft-agent")
	write := func(token, name string) error {
		ctx, cancel := bounded(t)
		defer cancel()
		c := mesh.api.withToken(strings.TrimSpace(token))
		p := path("coordination.k8s.io/v1", "Lease", system, name)
		var lease object
		if err := c.do(ctx, http.MethodGet, p, "application/json", nil, &lease); err != nil {
			t.Fatalf("read Lease %s: %v", name, err)
		}
		body, err := json.Marshal(lease)
		if err != nil {
			t.Fatal(err)
		}
		return c.do(ctx, http.MethodPut, p, "application/json", body, nil)
	}
	// The agent writes it too, every second or so.
	eventually(t, settle, func() error { return write(bound, "weft-agent-n1") })
	for _, test := range []struct{ what, token, lease string }{
		{"another node's Lease", bound, "weft-agent-n2"},
		{"the controllers' Lease", bound, "weft-controller"},
		{"a Lease by a token that no node has", unbound, "weft-agent-n1"},
	} {
		// 403 is the policy's; 409 would be the API server's for a Lease that was written meanwhile.
		eventually(t, settle, func() error {
			err := write(test.token, test.lease)
			if err == nil {
				t.Fatalf("%s was written", test.what)
			}
			if !strings.Contains(err.Error(), "only the Leases of its own node") {
				return err
			}
			return nil
		})
	}
}
