package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// view has one node, or fails.
type view struct{ err error }

func (v view) Graph(context.Context) (*servicemap.Graph, error) {
	return &servicemap.Graph{Nodes: []servicemap.Node{{ID: "a"}}}, v.err
}

func (v view) Flows(_ context.Context, p servicemap.Pair) ([]observe.Flow, error) {
	return []observe.Flow{{Reason: p.From.Name + ">" + p.To.Namespace}}, v.err
}

func get(t *testing.T, url, authorization string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestHandler(t *testing.T) {
	s := httptest.NewServer(Handler(func(_ context.Context, source, token string) (View, error) {
		if source != "127.0.0.1" {
			t.Errorf("a request from %q", source)
		}
		switch token {
		case "right":
			return view{}, nil
		case "sick":
			return view{errors.New("no node answers")}, nil
		}
		return nil, &Error{http.StatusUnauthorized, "no such token"}
	}))
	defer s.Close()
	query := servicemap.Pair{From: servicemap.End{Name: "x"}, To: servicemap.End{Namespace: "y"}}.Values().Encode()
	for _, tc := range []struct {
		path, authorization string
		status              int
		want                string
	}{
		{"/", "", 200, "<title>Weft service map</title>"},
		{"/app.js", "", 200, "sessionStorage"},
		{"/cytoscape.min.js", "", 200, "cytoscape"},
		{"/../web.go", "", 404, ""},
		{"/v1/map", "", 401, "no such token"},
		{"/v1/map", "Basic right", 401, "no such token"},
		{"/v1/map", "Bearer wrong", 401, "no such token"},
		{"/v1/map", "Bearer sick", 502, "no node answers"},
		{"/v1/map", "bearer right", 200, `"id":"a"`},
		{"/v1/map/flows?" + query, "Bearer wrong", 401, "no such token"},
		{"/v1/map/flows?" + query, "Bearer right", 200, `"reason":"x\u003ey"`},
	} {
		res, body := get(t, s.URL+tc.path, tc.authorization)
		if res.StatusCode != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s as %q: %s %s", tc.path, tc.authorization, res.Status, body)
		}
		for key, want := range security {
			// net/http takes Cache-Control from what it finds nothing for.
			if got := res.Header.Get(key); got != want && (key != "Cache-Control" || tc.status != http.StatusNotFound) {
				t.Errorf("%s: %s: %q", tc.path, key, got)
			}
		}
		if len(res.Header["Set-Cookie"]) > 0 {
			t.Errorf("%s sets a cookie", tc.path)
		}
	}
	res, err := http.Post(s.URL+"/v1/map", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", res.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestPageIsItself: nothing in it is loaded from elsewhere or written into it, and data is never taken as HTML.
func TestPageIsItself(t *testing.T) {
	for _, name := range []string{"index.html", "style.css", "text.js", "map.js", "app.js"} {
		text, err := static.ReadFile("static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick=", "style=", "cookie"} {
			if strings.Contains(string(text), bad) {
				t.Errorf("%s has %s", name, bad)
			}
		}
	}
}

func TestLoopback(t *testing.T) {
	if _, err := Listen("0.0.0.0:0"); err == nil {
		t.Fatal("an address that others reach is taken")
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode("passed on") }))
	defer upstream.Close()
	for name, tc := range map[string]struct {
		serve func(context.Context, *Loopback) error
		want  string
	}{
		"view": {func(ctx context.Context, l *Loopback) error { return l.ServeView(ctx, view{}) }, `"id":"a"`},
		"proxy": {func(ctx context.Context, l *Loopback) error {
			return l.ServeProxy(ctx, http.RedirectHandler(upstream.URL, http.StatusFound))
		}, "passed on"},
	} {
		l, err := Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tc.serve(ctx, l) }()
		url, token, _ := strings.Cut(l.URL, "#token=")
		if res, body := get(t, url, ""); res.StatusCode != 200 || !strings.Contains(body, "service map") {
			t.Errorf("%s: the page: %s", name, res.Status)
		}
		for _, wrong := range []string{"", "Bearer", "Bearer x", "Bearer " + token + "x"} {
			if res, _ := get(t, url+"v1/map", wrong); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: %q: %s", name, wrong, res.Status)
			}
		}
		if res, body := get(t, url+"v1/map", "Bearer "+token); res.StatusCode != 200 || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
