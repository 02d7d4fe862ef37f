package ca

import (
	"bufio"
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

// TestConnect: an agent's connection for another protocol is authenticated at both ends, as a request is.
func TestConnect(t *testing.T) {
	s := newService(t)
	conn, err := s.agent("agent-2").Connect(t.Context(), s.address, "/v1/other", "other")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	if node, err := in.ReadString('\n'); node != "n2\n" {
		t.Errorf("the agent of node %q, error %v", node, err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if echo, err := in.ReadString('\n'); echo != "hello\n" {
		t.Errorf("%q comes back, error %v", echo, err)
	}
	for what, c := range map[string]struct{ token, path, says string }{
		"no agent's token":  {"account", "/v1/other", "403"},
		"an unknown token":  {"x", "/v1/other", "401"},
		"an older CA":       {"agent-1", "/v1/nothing", "older than this agent"},
		"no other protocol": {"agent-1", "/v1/node", "200"},
	} {
		if _, err := s.agent(c.token).Connect(t.Context(), s.address, c.path, "other"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	stranger := newService(t) // another CA, with other roots
	if _, err := s.agent("agent-1").Connect(t.Context(), stranger.address, "/v1/other", "other"); err == nil {
		t.Error("a token is given to who is not the CA")
	}
}
