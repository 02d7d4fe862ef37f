package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerSaysWhoItIs(t *testing.T) {
	s := httptest.NewServer(handler("v1"))
	defer s.Close()
	resp, err := s.Client().Get(s.URL + "/a/b")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get(load.BackendHeader) != "v1" || !strings.HasPrefix(string(body), "v1 saw GET ") ||
		!strings.Contains(string(body), "/a/b from 127.0.0.1:") {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, "v1", "127.0.0.1:0") }()
	cancel()
	if err := <-done; err != nil && !strings.Contains(err.Error(), "canceled") {
		t.Error(err)
	}
	if err := Serve(context.Background(), "v1", "no-port"); err == nil || !strings.Contains(err.Error(), "v1") {
		t.Errorf("bad address: %v", err)
	}
}

func TestClientCountsWhoAnswered(t *testing.T) {
	s := httptest.NewServer(handler("v2"))
	defer s.Close()
	var out bytes.Buffer
	if err := Call(context.Background(), &out, ClientOptions{URL: s.URL, Requests: 20, Connections: 2}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "from v2") || !strings.Contains(out.String(), "20 (100.0%)") {
		t.Error(out.String())
	}
	out.Reset()
	var r load.Report
	err := Call(context.Background(), &out, ClientOptions{URL: s.URL, Requests: 3, JSON: true, Timeout: time.Minute})
	if err := errors.Join(err, json.Unmarshal(out.Bytes(), &r)); err != nil || r.Backends["v2"] != 3 {
		t.Errorf("%v: %+v", err, r)
	}
	s.Close()
	if err := Call(context.Background(), &out, ClientOptions{URL: s.URL, Requests: 1}); err == nil {
		t.Error("a failed request gives no error")
	}
}
