package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/containernetworking/cni/pkg/types"
)

// downError says that no agent answered.
type downError struct{ err error }

func (e *downError) Error() string { return "the agent does not answer: " + e.err.Error() }
func (e *downError) Unwrap() error { return e.err }

// call posts a request. It gives nil, the agent's *types.Error, or a *downError.
func call(ctx context.Context, socket, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return &downError{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	if err != nil {
		return &downError{err}
	}
	var e types.Error
	if json.Unmarshal(answer, &e) != nil || e.Msg == "" {
		return types.NewError(types.ErrInternal, fmt.Sprintf("the agent answered %s", resp.Status), "")
	}
	return &e
}
