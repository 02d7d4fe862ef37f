package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
)

// Explain asks what becomes of a connection or a request of a pod.
func (c *Client) Explain(ctx context.Context, q explain.Question) (*explain.Answer, error) {
	var out explain.Answer
	return &out, c.question(ctx, "/v1/explain", q, &out)
}

// Arrive asks what the destination decides of a connection.
func (c *Client) Arrive(ctx context.Context, a explain.Arrival) (explain.Decision, error) {
	var out explain.Decision
	return out, c.question(ctx, "/v1/explain/arrival", a, &out)
}

// Describe asks what the mesh makes of an object.
func (c *Client) Describe(ctx context.Context, q describe.Question) (*describe.Description, error) {
	var out describe.Description
	return &out, c.question(ctx, "/v1/describe", q, &out)
}

func (c *Client) question(ctx context.Context, path string, question, into any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return c.get(ctx, path, url.Values{"q": {string(text)}}, into)
}

func (n *Node) explainer() *explain.Node {
	return &explain.Node{State: n.State, Snapshot: n.State.Snapshot(), Now: time.Now(), Tunnel: n.Tunnel}
}

func (n *Node) explain(w http.ResponseWriter, r *http.Request) {
	var q explain.Question
	if readQuestion(w, r, &q) {
		out, err := n.explainer().Explain(q)
		answerOr(w, out, err)
	}
}

func (n *Node) describe(w http.ResponseWriter, r *http.Request) {
	var q describe.Question
	if readQuestion(w, r, &q) {
		out, err := (&describe.Node{Node: *n.explainer()}).Describe(q)
		answerOr(w, out, err)
	}
}

// answerOr answers, or with the status for an error.
func answerOr(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, explain.ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		answer(w, v)
	}
}

func (n *Node) arrive(w http.ResponseWriter, r *http.Request) {
	var a explain.Arrival
	if readQuestion(w, r, &a) {
		answer(w, n.explainer().Arrive(a))
	}
}

func readQuestion(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.Unmarshal([]byte(r.URL.Query().Get("q")), into); err != nil {
		http.Error(w, fmt.Sprintf("the question cannot be read: %v", err), http.StatusBadRequest)
		return false
	}
	return true
}
