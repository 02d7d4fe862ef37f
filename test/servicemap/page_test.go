package servicemap

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/servicemap/web"
	"github.com/weft-mesh/weft/internal/traffic"
)

// hostile would run as a script, or end a string or an attribute, if it were taken as HTML.
const hostile = `"'></script><img src=x onerror="window.broken=1"><script>window.broken=1</script>`

// fixed is a map that does not change.
type fixed struct{ only string } // namespace that may be seen, "" for all

func (f fixed) Graph(context.Context) (*servicemap.Graph, error) {
	count := func(namespace, to string) servicemap.Count {
		return servicemap.Count{
			Pair:     servicemap.Pair{From: servicemap.End{Namespace: "shop", Kind: hostile, Name: hostile}, To: servicemap.End{Namespace: namespace, Kind: "Deployment", Name: to}},
			Service:  namespace + "/" + hostile,
			Reporter: traffic.AtSource, Ever: true,
			Totals: traffic.Totals{Requests: 10, Opened: 1, Refused: map[string]uint64{hostile: 5}},
		}
	}
	g := servicemap.Merge(time.Now(), []*servicemap.Part{{
		Seconds: 10, Counts: []servicemap.Count{count(hostile, "web"), count("bank", "vault"), {
			Pair:     servicemap.Pair{From: servicemap.End{Namespace: "bank", Kind: "Pod", Name: "teller"}, To: servicemap.End{Namespace: "bank", Kind: "Deployment", Name: "vault"}},
			Reporter: traffic.AtSource, Totals: traffic.Totals{UDP: traffic.UDPTotals{Questions: 20}},
		}},
		Workloads: []servicemap.Workload{{End: servicemap.End{Namespace: "bank", Kind: "Deployment", Name: "vault"}, Modes: []string{hostile}, Policies: []string{hostile}}},
	}}, []string{hostile})
	if f.only != "" {
		g = g.For(func(ns string) bool { return ns == f.only })
	}
	return g, nil
}

func (fixed) Flows(context.Context, servicemap.Pair) ([]observe.Flow, error) {
	return []observe.Flow{{
		Time: time.Now(), Protocol: model.TCP, Verdict: observe.Refused, Layer: observe.L7, Reason: hostile, Policies: []string{hostile},
		Route: "HTTPRoute/shop/" + hostile + "/1", AllowedBy: hostile,
		Source: observe.Peer{Workload: "shop/" + hostile}, Destination: observe.Peer{Service: hostile},
		HTTP: &observe.Request{Method: hostile, Host: hostile, Path: "/" + hostile, Status: 403},
	}}, nil
}

// servePage shows fixed maps to the bearers of two tokens, and returns its address.
func servePage(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- web.Serve(ctx, l, nil, web.Handler(func(_ context.Context, _, token string) (web.View, error) {
			switch token {
			case "all":
				return fixed{}, nil
			case "bank":
				return fixed{only: "bank"}, nil
			}
			return nil, &web.Error{Status: http.StatusUnauthorized, Text: "no such token " + hostile}
		}))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String() + "/"
}

// TestPage logs in, and shows what is hostile as text.
func TestPage(t *testing.T) {
	b := newBrowser(t)
	url := servePage(t)
	login := func(token string) {
		t.Helper()
		b.do(chromedp.WaitVisible(chromedp.CSS("#token")), chromedp.SendKeys(chromedp.CSS("#token"), token), chromedp.Click(chromedp.CSS("#login button")))
	}
	b.do(chromedp.Navigate(url))
	login("wrong")
	b.await(`document.getElementById("refused").textContent.startsWith("no such token")`)
	if got := eval[string](b, `document.getElementById("refused").textContent`); !strings.Contains(got, hostile) {
		t.Errorf("the error is %q", got)
	}
	login("bank")
	b.await(`weftMap.cy.edges().length === 2 && document.getElementById("login").hidden`)
	b.do(chromedp.Click(chromedp.CSS("#logout")))
	login("all")
	b.await(`weftMap.cy.edges().length === 3`)
	if got := eval[string](b, `location.href + document.cookie + localStorage.length`); got != url+"0" {
		t.Errorf("a token is left in %q", got)
	}

	if got := eval[[]string](b, `weftMap.cy.edges().map((e) => e.data("label"))`); !slices.Contains(got, "2 DNS/s") {
		t.Errorf("labels of edges: %q", got)
	}
	b.do(chromedp.Click(chromedp.CSS("#dns")))
	b.await(`weftMap.cy.edges().length === 2`)
	b.do(chromedp.Click(chromedp.CSS("#dns")))
	b.await(`weftMap.cy.edges().length === 3`)

	chosen := eval[string](b, `weftMap.cy.edges().filter((e) => e.target().data("label").startsWith("vault") && e.data("bad"))[0].id()`)
	b.clickEdge(chosen)
	b.await(`document.getElementById("flows").rows.length === 1`)
	for _, id := range []string{"title", "facts", "decided", "flows", "edges", "status"} {
		if got := eval[string](b, `document.getElementById("`+id+`").textContent`); !strings.Contains(got, hostile) {
			t.Errorf("%s: %q", id, got)
		}
	}
	if got := eval[[]string](b, `weftMap.cy.nodes().map((n) => n.data("label"))`); !strings.Contains(strings.Join(got, "\n"), `"'></script><img`) {
		t.Errorf("labels %q", got)
	}
	if n := eval[int](b, `document.querySelectorAll("img, iframe, object, script:not([src])").length`); n != 0 || eval[bool](b, `window.broken === 1`) {
		t.Errorf("%d elements were made of text", n)
	}
	b.alone(url)
}

// alone fails the test if the page asked elsewhere, or the browser complained of more than the token that was wrong.
func (b *browser) alone(url string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.asked) == 0 {
		b.t.Error("no question of the page was seen")
	}
	for _, u := range b.asked {
		if !strings.HasPrefix(u, url) && !strings.HasPrefix(u, "data:,") {
			b.t.Errorf("the page asked for %s", u)
		}
	}
	for _, c := range b.complaints {
		if !strings.Contains(c, "401") {
			b.t.Errorf("the browser complains: %s", c)
		}
	}
}
