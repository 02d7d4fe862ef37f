package ca

import (
	"io"
	"strings"
	"testing"
)

// TestStream: what agents follow is served by the node that the token proves, and to nobody else.
func TestStream(t *testing.T) {
	s := newService(t)
	for _, c := range []struct{ name, token, want, refused string }{
		{"an agent", "agent-1", "n1", ""},
		{"an agent by its pod", "agent-2", "n2", ""},
		{"an agent whose pod is another", "gone", "", "bound to no pod"},
		{"another audience", "audience", "", "401"},
		{"another ServiceAccount", "account", "", "403"},
		{"a token that nobody knows", "garbage", "", "401"},
		{"no token", "", "", "401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, err := s.agent(c.token).Stream(t.Context(), "/v1/node?node=n9")
			if err != nil {
				if c.refused == "" || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("got %v, want an error about %q", err, c.refused)
				}
				return
			}
			defer body.Close()
			if text, err := io.ReadAll(body); err != nil || string(text) != c.want {
				t.Errorf("got %q, %v, want %q", text, err, c.want)
			}
		})
	}
}

// TestOlderController: an agent that is newer says which one is to be upgraded.
func TestOlderController(t *testing.T) {
	s := newService(t)
	body, err := s.agent("agent-1").Stream(t.Context(), "/v2/node")
	if err == nil {
		body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "upgrade the Deployment weft-controller") {
		t.Errorf("got %v", err)
	}
}

// TestStreamsHoldNoSlot: streams that last keep nobody from having certificates signed.
func TestStreamsHoldNoSlot(t *testing.T) {
	s := newService(t)
	agent := s.agent("agent-1")
	for range 2 * maxOfSource {
		body, err := agent.Stream(t.Context(), "/v1/lasting")
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
	}
}
